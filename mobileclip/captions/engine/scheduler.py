"""Who takes which shard, and what happens after what goes wrong: decisions alone, without a clock or a process.

    scheduler = Scheduler(range(128_000), Rules(most=64))
    drive(scheduler, pool, time.monotonic)              # orders to the pool, events from it, until nothing is left

The same code decides for processes, for Ray and for a simulation, so what holds in a simulation of 128,000 shards holds
outside of it. Only shards that are held or in trouble take memory and time; every decision costs the same however many
shards and workers there are.

A shard whose worker ends is tried again; after `suspect` such ends it is searched for rows that end a process. A shard
that raises is tried again after a pause. At the end, idle workers take over shards of workers that are much slower than
usual: results do not depend on who makes them, so whoever is first counts.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from statistics import median

from mobileclip.captions.engine.orders import (
    Beat,
    Done,
    Event,
    Failed,
    Give,
    Isolated,
    Kill,
    Lost,
    Order,
    Pool,
    Ready,
    Start,
    Stop,
)
from mobileclip.captions.stage import checked

_LONGEST_PAUSE = 60.0  # seconds
_RECENT = 65  # durations whose median says what is usual
_FEW = 3  # durations without which nothing is usual
_NEARLY = 0.8  # of the memory that a worker may hold: it would not get through another shard


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the scheduler decides."""

    most: int = 1
    """Workers at most."""
    least: int = 0
    """Workers that are kept while there is work, also when fewer could do it."""
    depth: int = 1
    """Shards that a worker holds at once: 2 hide the way to another machine."""
    watchdog: float = 900.0
    """Seconds without progress after which a worker is ended."""
    suspect: int = 2
    """Ends of workers after which their shard is searched for the rows that cause them."""
    attempts: int = 3
    """Exceptions after which a shard has failed."""
    searches: int = 8
    """Searches that find nothing, or are ended themselves, after which it has: so many, since what ends workers may
    be somebody else."""
    pause: float = 1.0
    """Seconds before a shard that raised is tried again; twice as long each time."""
    idle: float = 30.0
    """Seconds after which a worker that is not needed is let go."""
    hedge: float = 2.0
    """Times the usual duration after which an idle worker takes a shard as well; 0: never."""
    memory: int = 0
    """Bytes that a worker may hold; it is replaced when it holds nearly as much between two shards. 0: any."""
    recycle: int = 0
    """Shards after which a worker is replaced; 0: never."""
    stillborn: int = 5
    """Workers in a row that end before they begin, after which there is no hope."""

    def __post_init__(self) -> None:
        checked(self.most >= 1, f"{self.most} workers are asked for: at least 1 is needed.")
        checked(
            0 <= self.least <= self.most, f"at least {self.least} workers of at most {self.most} are asked for: swap."
        )
        checked(self.watchdog > 0, f"the watchdog waits {self.watchdog} s: give more than 0.")


def drive(
    scheduler: "Scheduler",
    pool: Pool,
    clock: Callable[[], float],
    hear: Callable[[Event], object] | None = None,
    turn: Callable[[], object] = lambda: None,
) -> None:
    """Until nothing is left, or there is no hope; `hear` takes events to the scheduler, `turn` is called each round."""
    while scheduler.left and not scheduler.hopeless:
        for order in scheduler.decide(clock()):
            pool.obey(order)
        for event in pool.events(scheduler.wait(clock())):
            if hear is None:
                scheduler.hear(event, clock())
            else:
                hear(event)
        turn()


class Scheduler:
    """The state of one wave."""

    def __init__(self, items: Iterable[int], rules: Rules, suspects: Collection[int] = ()) -> None:
        """`suspects` are items that ended workers before, and are searched at once."""
        self.rules = rules
        self.failed: dict[int, str] = {}
        """Items that are given up -> why."""
        self.hopeless = ""
        """Why no worker can be had; "" while there is hope."""
        self.counts: Counter[str] = Counter()
        """How often: done, again, lost, killed, replaced, isolated, blocked, hedged."""
        self._fresh = deque(items)
        self.left = len(self._fresh)
        """Items that are neither done nor given up."""
        self._again: deque[int] = deque()
        self._later: list[tuple[float, int]] = []
        self._search = set(suspects)
        self._ends: Counter[int] = Counter()
        self._raised: Counter[int] = Counter()
        self._fruitless: Counter[int] = Counter()
        self._made = 0
        self._starting: set[int] = set()
        self._held: dict[int, deque[int]] = {}
        self._heard: dict[int, float] = {}
        self._began: dict[int, float] = {}
        self._free: dict[int, float] = {}
        self._room: dict[int, None] = {}
        self._count: Counter[int] = Counter()
        self._full: deque[int] = deque()
        self._watch: list[tuple[float, int]] = []
        self._watching: set[int] = set()
        self._twins: Counter[int] = Counter()
        self._over: set[int] = set()
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._dead, self._start_at, self._hedge_at = 0, 0.0, 0.0

    @property
    def workers(self) -> int:
        """Workers that have begun."""
        return len(self._held)

    @property
    def in_flight(self) -> int:
        """Items that workers hold."""
        return sum(map(len, self._held.values()))

    def decide(self, now: float) -> list[Order]:
        """What to do at this time, in seconds of any clock."""
        orders: list[Order] = []
        self._watched(now, orders)
        while self._full:
            self._replace(self._full.popleft(), orders)
        while self._later and self._later[0][0] <= now:
            self._again.append(heapq.heappop(self._later)[1])
        self._give(now, orders)
        self._size(now, orders)
        return orders

    def wait(self, now: float) -> float:
        """Seconds until there is something to decide, if nothing happens before."""
        times = [now + 1.0, *(heap[0][0] for heap in (self._watch, self._later) if heap)]
        if self._start_at > now:
            times.append(self._start_at)
        return max(0.0, min(times) - now)

    def hear(self, event: Event, now: float) -> int | None:
        """Take in what happened; returns the item that is blamed for the end of a worker."""
        worker = event.worker
        if isinstance(event, Ready):
            if worker in self._starting:
                self._starting.remove(worker)
                self._held[worker], self._free[worker], self._dead = deque(), now, 0
            return None
        if isinstance(event, Lost):
            return self._lost(event, now)
        if worker not in self._held:
            return None
        self._heard[worker] = now
        if isinstance(event, Beat) or event.item not in self._held[worker]:
            return None
        self._let_go(worker, event.item, now, usual=isinstance(event, Done))
        if isinstance(event, Done):
            self._wear(event)
        if self._twin(event.item, ended=isinstance(event, Done)):
            return None
        if isinstance(event, Done):
            self._settle(event.item)
            self.counts["done"] += 1
        elif isinstance(event, Failed):
            self._refused(event, now)
        else:
            self._searched(event, now)
        return None

    def _watched(self, now: float, orders: list[Order]) -> None:
        """Kill who holds something and has not been heard of for too long."""
        while self._watch and self._watch[0][0] <= now:
            _, worker = heapq.heappop(self._watch)
            self._watching.discard(worker)
            if not self._held.get(worker):
                continue
            if self._heard[worker] + self.rules.watchdog > now:
                self._look_at(worker)
            else:
                self.counts["killed"] += 1
                orders.append(Kill(worker, f"no progress for {self.rules.watchdog:.0f} s"))

    def _look_at(self, worker: int) -> None:
        if worker not in self._watching:
            self._watching.add(worker)
            heapq.heappush(self._watch, (self._heard[worker] + self.rules.watchdog, worker))

    def _give(self, now: float, orders: list[Order]) -> None:
        while self._free and (self._again or self._fresh):
            self._hand(next(iter(self._free)), self._next(), now, orders)
        while self._room and len(self._again) + len(self._fresh) > len(self._held) + len(self._starting):
            self._hand(next(iter(self._room)), self._next(), now, orders)
        if self._free and self._later == [] and self.rules.hedge and now >= self._hedge_at:
            self._hedge(now, orders)

    def _next(self) -> int:
        return self._again.popleft() if self._again else self._fresh.popleft()

    def _hand(self, worker: int, item: int, now: float, orders: list[Order]) -> None:
        held = self._held[worker]
        if not held:
            del self._free[worker]
            self._heard[worker] = self._began[worker] = now
            self._look_at(worker)
        held.append(item)
        if len(held) < self.rules.depth:
            self._room[worker] = None
        else:
            self._room.pop(worker, None)
        orders.append(Give(worker, item, item in self._search))

    def _hedge(self, now: float, orders: list[Order]) -> None:
        """Give idle workers what waits behind another shard, or is held much longer than usual."""
        waiting = [item for held in self._held.values() if len(held) > 1 for item in list(held)[1:]]
        slow: list[tuple[float, int]] = []
        if len(self._recent) >= _FEW:
            usual = median(self._recent)
            self._hedge_at = now + usual / 4
            long_ago = now - self.rules.hedge * usual
            slow = [(began, self._held[worker][0]) for worker, began in self._began.items() if began < long_ago]
        for item in (*waiting, *(item for _, item in sorted(slow))):
            if not self._free:
                return
            if item not in self._twins and item not in self._search and item not in self._over:
                self._twins[item] = 2
                self.counts["hedged"] += 1
                self._hand(next(iter(self._free)), item, now, orders)

    def _size(self, now: float, orders: list[Order]) -> None:
        """Start and stop workers."""
        live = len(self._held) + len(self._starting)
        wanted = max(self.rules.least, min(self.rules.most, self.left))
        while live < wanted and self.left and now >= self._start_at and not self.hopeless:
            self._made += 1
            live += 1
            self._starting.add(self._made)
            orders.append(Start(self._made))
        if self._again or self._fresh or self._later:
            return
        while live > self.rules.least and self._free:
            worker = next(iter(self._free))
            if now - self._free[worker] < self.rules.idle or live <= wanted:
                return
            live -= 1
            self._forget(worker)
            orders.append(Stop(worker))

    def _let_go(self, worker: int, item: int, now: float, *, usual: bool) -> None:
        """A worker does not hold an item any more."""
        held = self._held[worker]
        if held[0] == item:
            if usual:
                self._recent.append(now - self._began[worker])
            self._began[worker] = now
        held.remove(item)
        if held:
            self._room[worker] = None
        else:
            self._began.pop(worker, None)
            self._room.pop(worker, None)
            self._free[worker] = now

    def _wear(self, event: Done) -> None:
        """Note a worker that should be replaced."""
        self._count[event.worker] += 1
        worn = 0 < self.rules.recycle <= self._count[event.worker]
        if worn or 0 < self.rules.memory * _NEARLY < event.memory:
            self._full.append(event.worker)

    def _replace(self, worker: int, orders: list[Order]) -> None:
        if worker in self._held:
            for item in self._held[worker]:
                if not self._twin(item, ended=False):
                    self._again.appendleft(item)
            self._forget(worker)
            self.counts["replaced"] += 1
            orders.append(Stop(worker))

    def _twin(self, item: int, *, ended: bool) -> bool:
        """Whether an event of an item says nothing, since another worker has done it or still holds it."""
        if item in self._over:
            self._over.discard(item)
            return True
        if item not in self._twins:
            return False
        del self._twins[item]
        if ended:
            self._over.add(item)
        return not ended

    def _settle(self, item: int) -> None:
        self.left -= 1
        self._search.discard(item)
        for counter in (self._ends, self._raised, self._fruitless):
            counter.pop(item, None)

    def _give_up(self, item: int, why: str) -> None:
        self.failed[item] = why
        self._settle(item)

    def _refused(self, event: Failed, now: float) -> None:
        if event.rows:
            self._blame(event.item)
            self._once_more(event.item)
            return
        self._raised[event.item] += 1
        if self._raised[event.item] >= self.rules.attempts:
            self._give_up(event.item, event.why)
            return
        self.counts["again"] += 1
        pause = min(_LONGEST_PAUSE, self.rules.pause * 2.0 ** (self._raised[event.item] - 1))
        heapq.heappush(self._later, (now + pause, event.item))

    def _searched(self, event: Isolated, now: float) -> None:
        self.counts["isolated"] += 1
        self.counts["blocked"] += len(event.found)
        self._search.discard(event.item)
        self._ends.pop(event.item, None)
        if not event.found:
            self._fruitless[event.item] += 1
            if self._fruitless[event.item] >= self.rules.searches:
                self._give_up(event.item, event.why or "it ends its worker, and no row alone does")
                return
        self._once_more(event.item)

    def _lost(self, event: Lost, now: float) -> int | None:
        worker, rules = event.worker, self.rules
        if worker in self._starting:
            self._starting.remove(worker)
            self._dead += 1
            self._start_at = now + min(_LONGEST_PAUSE, rules.pause * 2.0 ** (self._dead - 1))
            if self._dead >= rules.stillborn and not self._held:
                self.hopeless = event.why
            return None
        if worker not in self._held:
            return None
        held = list(self._held[worker])
        self._forget(worker)
        self.counts["lost"] += 1
        blamed = None
        for place, item in enumerate(held):
            if self._twin(item, ended=False):
                continue
            if place == 0 and event.blames:
                blamed = item
                if item in self._search:
                    self._fruitless[item] += 1
                    if self._fruitless[item] >= rules.searches:
                        self._give_up(item, f"the search for the rows that end it was ended itself ({event.why})")
                        continue
                else:
                    self._blame(item)
            self._once_more(item)
        return blamed

    def _blame(self, item: int) -> None:
        self._ends[item] += 1
        if self._ends[item] >= self.rules.suspect:
            self._search.add(item)

    def _once_more(self, item: int) -> None:
        self.counts["again"] += 1
        self._again.append(item)

    def _forget(self, worker: int) -> None:
        del self._held[worker]
        for times in (self._heard, self._began, self._free):
            times.pop(worker, None)
        self._room.pop(worker, None)
        del self._count[worker]
