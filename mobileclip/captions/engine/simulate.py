"""How long a run on many machines takes, and what goes wrong on the way: the real scheduler in virtual time.

    outcome = simulate(World(shards=128_000, preempted=0.05), Rules(most=512))
    outcome.seconds, outcome.redone

Workers here start after a while, have speeds, are taken away, crash, stand still; shards take long or short, and some
hold rows that end a process. The same seed gives the same run. Nothing is known of disks and networks: what a shard
takes is put in, and comes from a measurement.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from mobileclip.captions.engine.orders import Beat, Done, Event, Failed, Give, Isolated, Kill, Lost, Order, Ready, Start
from mobileclip.captions.engine.scheduler import Rules, Scheduler, drive
from mobileclip.captions.stage import checked


@dataclass(frozen=True, kw_only=True)
class World:
    """What happens around the scheduler; rates are made up unless they are measured."""

    shards: int = 128_000
    """Work items."""
    seconds: float = 600.0
    """Median time of a shard on a usual worker."""
    spread: float = 0.25
    """Standard deviation of the logarithm of that time."""
    start: tuple[float, float] = (30.0, 180.0)
    """Seconds from the wish for a worker to one that is ready, at least and at most."""
    slow: float = 0.02
    """Share of workers that are slow."""
    slowness: float = 5.0
    """How many times longer they take."""
    least_room: float = 1.0
    """Share of the workers asked for that can be had at the worst time of day; the best time gives all."""
    preempted: float = 0.0
    """Workers taken away, an hour and worker."""
    crashes: float = 0.0
    """Workers that end by chance, an hour and worker: nobody knows that the shard is not to blame."""
    flaky: float = 0.0
    """Share of tries that raise by chance: a network, a disk."""
    poisoned: float = 0.0
    """Share of shards with rows that end a process."""
    hanging: float = 0.0
    """Share of shards with rows that keep it busy for ever."""
    broken: float = 0.0
    """Share of shards that cannot be read at all."""
    search: float = 1.5
    """Time of a search for such rows, in times of the shard's own."""
    seed: int = 0
    """Of all that is drawn."""

    def __post_init__(self) -> None:
        checked(self.shards >= 1 and self.seconds > 0, "a world has at least one shard, which takes some time.")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of it; seconds are virtual."""

    seconds: float
    """Until the last shard."""
    ideal: float
    """If every shard were done once, at the usual speed, by all workers that could be had, without a pause."""
    done: int
    """Shards."""
    failed: int
    """Shards given up."""
    asked: float
    """Seconds of workers that were had, from ready to their end."""
    useful: float
    """Of these, spent on what counted in the end."""
    redone: float
    """Of these, spent on what was lost, refused, searched or made twice."""
    counts: dict[str, int]
    """The scheduler's: again, lost, killed, replaced, isolated, blocked, hedged."""
    events: int
    """That the scheduler heard."""
    orders: int
    """That it gave."""
    most_workers: int
    """At a time."""
    tail: float
    """Seconds from 99 % of the shards to all."""


def simulate(world: World, rules: Rules) -> Outcome:
    """Run one wave."""
    pool = _Pool(world, rules)
    scheduler = Scheduler(range(world.shards), rules)
    nearly, at = world.shards // 100, [0.0]

    def hear(event: Event) -> None:
        before = scheduler.left
        scheduler.hear(event, pool.now)
        if before > nearly >= scheduler.left:
            at[0] = pool.now
        pool.most = max(pool.most, scheduler.workers)

    drive(scheduler, pool, lambda: pool.now, hear)
    pool.close()
    return Outcome(
        seconds=pool.now,
        ideal=pool.ideal(),
        done=world.shards - len(scheduler.failed),
        failed=len(scheduler.failed),
        asked=pool.asked,
        useful=pool.useful,
        redone=pool.redone,
        counts=dict(scheduler.counts),
        events=pool.count,
        orders=pool.orders,
        most_workers=pool.most,
        tail=pool.now - at[0],
    )


@dataclass(slots=True, kw_only=True)
class _Worker:
    ready: float
    speed: float
    held: deque[tuple[int, bool]] = field(default_factory=deque)
    began: float = 0.0
    turn: int = 0


class _Pool:
    """Workers in virtual time; a heap of what will happen."""

    def __init__(self, world: World, rules: Rules) -> None:
        self.world, self.rules = world, rules
        self.now = self.asked = self.useful = self.redone = 0.0
        self.count = self.orders = self.most = 0
        self._random = random.Random(world.seed)
        self._heap: list[tuple[float, int, str, int, int]] = []
        self._number = 0
        self._workers: dict[int, _Worker] = {}
        self._waiting: deque[int] = deque()
        self._starting: set[int] = set()
        self._clean: set[int] = set()
        self._done: set[int] = set()
        self._later("hour", 0, 600.0)

    def obey(self, order: Order) -> None:
        """Put what follows from it into the heap."""
        self.orders += 1
        number = order.worker
        if isinstance(order, Start):
            self._waiting.append(number)
            self._admit()
        elif isinstance(order, Give):
            worker = self._workers[number]
            worker.held.append((order.item, order.isolate))
            if len(worker.held) == 1:
                self._begin(number, worker)
        elif isinstance(order, Kill):
            self._later("lost", number, 0.0)
        else:
            self._end(number)

    def events(self, timeout: float) -> Sequence[Event]:
        """The next thing that happens, if it does so before `timeout`."""
        stop = self.now + timeout
        while self._heap and self._heap[0][0] <= stop:
            at, _, what, number, turn = heapq.heappop(self._heap)
            self.now = max(self.now, at)
            event = self._happens(what, number, turn)
            if event is not None:
                self.count += 1
                return (event,)
        self.now = stop
        return ()

    def close(self) -> None:
        """All workers end."""
        for number in list(self._workers):
            self._end(number)

    def ideal(self) -> float:
        """Seconds of a run in which nothing goes wrong and nobody is slow."""
        mean = self.world.seconds * math.exp(self.world.spread**2 / 2)
        left, now, step = self.world.shards * mean, 0.0, 60.0
        while left > 0:
            left -= step * min(self._room(now), self.world.shards)
            now += step
        return now + left / min(self._room(now), self.world.shards)

    def _room(self, now: float) -> float:
        """Workers that can be had: fewest at noon, as many as asked for at midnight."""
        low = self.world.least_room
        return max(1.0, self.rules.most * (low + (1 - low) * (0.5 + 0.5 * math.cos(2 * math.pi * now / 86_400))))

    def _admit(self) -> None:
        while self._waiting and len(self._workers) + len(self._starting) < int(self._room(self.now)):
            number = self._waiting.popleft()
            self._starting.add(number)
            self._later("ready", number, self._random.uniform(*self.world.start))

    def _happens(self, what: str, number: int, turn: int) -> Event | None:
        if what == "hour":
            return self._hour()
        if what == "ready":
            return self._ready(number)
        worker = self._workers.get(number)
        if worker is None:
            return None
        if what in ("lost", "taken"):
            self._end(number)
            return Lost(number, what, blames=what == "lost")
        if worker.turn != turn:
            return None
        if what == "beat":
            self._later("beat", number, self.rules.watchdog / 3)
            return Beat(number)
        if what == "dies":
            self._end(number)
            return Lost(number, "SIGSEGV")
        return self._ends(what, number, worker)

    def _hour(self) -> Event | None:
        """The room changes; who has none left is taken away."""
        self._later("hour", 0, 600.0)
        self._admit()
        over = len(self._workers) - int(self._room(self.now))
        for number in self._random.sample(sorted(self._workers), max(0, over)):
            self._later("taken", number, self._random.uniform(0.0, 600.0))
        return None

    def _ready(self, number: int) -> Event:
        world = self.world
        self._starting.discard(number)
        speed = 1 / world.slowness if self._random.random() < world.slow else 1.0
        self._workers[number] = _Worker(ready=self.now, speed=speed)
        for what, rate in (("taken", world.preempted), ("lost", world.crashes)):
            if rate:
                self._later(what, number, self._random.expovariate(rate / 3600))
        return Ready(number)

    def _begin(self, number: int, worker: _Worker) -> None:
        """What the first shard that a worker holds will come to."""
        item, search = worker.held[0]
        worker.began = self.now
        worker.turn += 1
        own = random.Random(self.world.seed * 1_000_003 + item)
        fate = own.random() if item not in self._clean else 1.0
        seconds = self.world.seconds * math.exp(own.gauss(0.0, self.world.spread)) / worker.speed
        poisoned = fate < self.world.poisoned
        hangs = not poisoned and fate < self.world.poisoned + self.world.hanging
        if 1 - own.random() <= self.world.broken:
            self._later("refused", number, 1.0)
        elif search:
            wait = self.rules.watchdog if hangs else 0.0
            self._later("searched", number, seconds * self.world.search + wait)
            self._later("beat", number, self.rules.watchdog / 3)
        elif poisoned:
            self._later("dies", number, seconds * own.random())
            self._later("beat", number, self.rules.watchdog / 3)
        elif hangs:
            return
        else:
            flaky = self._random.random() < self.world.flaky
            self._later("refused" if flaky else "done", number, seconds * (self._random.random() if flaky else 1))
            self._later("beat", number, self.rules.watchdog / 3)

    def _ends(self, what: str, number: int, worker: _Worker) -> Event:
        item, _ = worker.held.popleft()
        took = self.now - worker.began
        first = what == "done" and item not in self._done
        self.useful += took if first else 0.0
        self.redone += 0.0 if first else took
        worker.turn += 1
        if worker.held:
            self._begin(number, worker)
        if what == "done":
            self._done.add(item)
            return Done(number, item)
        if what == "refused":
            return Failed(number, item, "cannot be read")
        self._clean.add(item)
        own = random.Random(self.world.seed * 1_000_003 + item)
        guilty = own.random() < self.world.poisoned + self.world.hanging
        return Isolated(number, item, (("key", "SIGSEGV"),) if guilty else (), "nothing")

    def _end(self, number: int) -> None:
        worker = self._workers.pop(number)
        self.asked += self.now - worker.ready
        if worker.held:
            self.redone += self.now - worker.began
        self._admit()

    def _later(self, what: str, number: int, wait: float) -> None:
        self._number += 1
        worker = self._workers.get(number)
        turn = worker.turn if worker is not None else 0
        heapq.heappush(self._heap, (self.now + wait, self._number, what, number, turn))
