"""Runs a plan of caption work on processes, on Ray, or as one task of an array of jobs; and survives what can happen.

    run(plan, jobs=8)                                       # processes of this machine
    run(plan, engine="ray", jobs=64, gpus=0.5)              # actors; address="auto" takes a cluster
    run(plan, engine="array", array=(3, 128), jobs=8)       # this task's share of the shards

The same files come out of all three, byte for byte but for the notes' `made`. There is no state but finished
side-cars: whatever is killed, the same command goes on, and at most the shards in flight are done again.

A worker that ends or stands still is replaced, and its shard tried again; when that happens twice, the shard is
searched for the rows that cause it, which are blocked (isolate.py). A shard that cannot be done at all is left out and
reported, and the run goes on with the others, unless they are too many. What would meet every shard, such as a full
disk, ends the run at once.
"""

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from mobileclip.captions.engine import attempts
from mobileclip.captions.engine.desk import Duty, duty
from mobileclip.captions.engine.local import Processes
from mobileclip.captions.engine.orders import Done, Event, Failed, Isolated, Pool
from mobileclip.captions.engine.process import rebuilt
from mobileclip.captions.engine.scheduler import Rules, Scheduler, drive
from mobileclip.captions.plan import Item, Plan
from mobileclip.captions.stage import checked
from mobileclip.captions.work import prepare
from mobileclip.data.ahead import ahead
from mobileclip.data.pool import cores
from mobileclip.errors import DataError, MobileClipError, UnknownName

ENGINES = ("local", "ray", "array")
FEW = 8
"""Shards that may all fail before the run is given up as a whole."""

_ASK = 32  # threads that ask for notes
_LEFT_OVER = 86_400.0  # seconds after which a file that a killed process was writing is removed
_TELL = 0.5  # seconds between two calls of `progress`


MakePool = Callable[[Duty, Sequence[Item]], AbstractContextManager[Pool]]
"""What workers are made for, and all shards of a wave -> the workers."""


class NotReady(MobileClipError):
    """A task of an array has come to where it needs what other tasks have not finished."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run is."""

    wave: int
    """Of `waves`, from 1."""
    waves: int
    """How many."""
    stages: tuple[str, ...]
    """Of this wave."""
    done: int
    """Shards that went through it."""
    shards: int
    """How many there are."""
    rows: int
    """Rows that were worked on in this run and wave; a row counts once for each group of stages."""
    rows_per_s: float
    """Of late."""
    seconds_left: float | None
    """For this wave, at the rate of late; None while nothing is known."""
    workers: int
    """That have begun."""
    in_flight: int
    """Shards that they hold."""
    failed: int
    """Shards given up."""

    def __str__(self) -> str:
        left = "?" if self.seconds_left is None else _clock(self.seconds_left)
        failed = f", {self.failed} failed" if self.failed else ""
        return (
            f"wave {self.wave} of {self.waves} ({', '.join(self.stages)}): {self.done:,} of {self.shards:,} shards, "
            f"{self.rows_per_s:,.0f} rows/s, {self.workers} workers{failed}, {left} left"
        )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a run did."""

    shards: int
    """Shards that went through a wave, summed over waves."""
    rows: int
    """Rows that were worked on; a row counts once for each group of stages."""
    failed: dict[str, str]
    """Shards that were given up -> why."""
    blocked: dict[str, dict[str, str]]
    """Shard -> keys that this run found to end a process -> how."""
    counts: dict[str, int]
    """How often: again (shards), lost, killed, replaced (workers), isolated (searches), hedged (shards)."""
    memory: int
    """Bytes that a worker held at most, without mapped files."""
    seconds: float
    """From start to end."""


def run(
    plan: Plan,
    *,
    engine: str = "local",
    jobs: int = 0,
    min_jobs: int = 0,
    address: str | None = None,
    gpus: float = 0.0,
    cpus: float = 1.0,
    array: tuple[int, int] | None = None,
    wait: float = 0.0,
    watchdog: float = 900.0,
    memory_gb: float = 0.0,
    recycle: int = 0,
    attempts_each: int = 3,
    broken_share: float = 0.01,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> Summary:
    """Do what is not done yet.

    Args:
        plan: stages and shards.
        engine: "local", "ray" or "array".
        jobs: workers at most; 0 is one a core, on a cluster as many as it has room for.
        min_jobs: workers that Ray keeps while there is work.
        address: of a Ray cluster; None starts Ray here, on loopback.
        gpus: GPUs a worker, also a fraction; Ray alone places workers by it.
        cpus: CPU cores a worker; likewise.
        array: (index, count) of this task; all tasks are given the same plan.
        wait: seconds that a task waits for what other tasks have to finish first, before it raises `NotReady`.
        watchdog: seconds without progress after which a worker is ended and its shard tried again.
        memory_gb: memory that a worker may hold, 10^9 bytes; it is replaced between two shards when it comes near, and
            ended when it goes over. 0: any.
        recycle: shards after which a worker is replaced, against leaks; 0: never.
        attempts_each: how often a shard is tried that raises.
        broken_share: share of the shards that may fail.
        progress: called with shards that are done and all, now and then.
        watch: likewise, with all that is known.

    Raises:
        MobileClipError: what meets every shard (a full disk, a bad checkpoint); more shards failed than may.
        DataError: an option cannot be; a side-car is of another version, or damaged.
        NotReady: an array's other tasks have to end first.
        MissingExtra: Ray is not installed.
    """
    if engine not in ENGINES:
        raise UnknownName("engine", engine, ENGINES)
    checked((array is not None) == (engine == "array"), "array is (index, count) for engine 'array', and for no other.")
    checked(array is None or 0 <= array[0] < array[1], f"array is {array}: (index, count) is wanted, index from 0.")
    checked(0 <= broken_share <= 1, f"broken_share is {broken_share}: a share from 0 to 1 is wanted.")
    checked(jobs >= 0 and min_jobs >= 0 and memory_gb >= 0 and recycle >= 0, "jobs and limits cannot be negative.")
    rules = Rules(
        most=jobs or cores(),
        least=min(min_jobs, jobs or cores()),
        watchdog=watchdog,
        attempts=attempts_each,
        memory=int(memory_gb * 1e9),
        recycle=recycle,
    )
    begun = _Run(
        plan=replace(plan, folder=Path(plan.folder).absolute()),
        array=array,
        wait=wait,
        broken_share=broken_share,
        progress=progress or (lambda done, shards: None),
        watch=watch or (lambda now: None),
    )
    if engine != "ray":
        return begun.all(rules, lambda job, items: Processes(job, items, cpus=cpus, gpus=gpus))
    from mobileclip.captions.engine.ray_engine import Actors, connected

    with connected(address, cpus=cpus, gpus=gpus, jobs=rules.most) as cluster:
        rules = replace(rules, most=jobs or cluster.room, least=min_jobs, depth=2)
        return begun.all(rules, lambda job, items: Actors(job, items, cluster))


class _Run:
    """All waves; how shards and workers come together is the engines' only difference."""

    def __init__(
        self,
        *,
        plan: Plan,
        array: tuple[int, int] | None,
        wait: float,
        broken_share: float,
        progress: Callable[[int, int], None],
        watch: Callable[[Progress], None],
    ) -> None:
        self.plan, self.array, self.wait, self.broken_share = plan, array, wait, broken_share
        self.progress, self.watch = progress, watch
        self.every = len(plan.shards)
        self.mine = {item.name for item in share(plan.shards, *array)} if array else None
        self.failed: dict[str, str] = {}
        self.blocked: dict[str, dict[str, str]] = {}
        self.counts: Counter[str] = Counter()
        self.rows = self.shards = self.memory = 0

    def all(self, rules: Rules, pool: MakePool) -> Summary:
        """Through all waves that are not done."""
        began = time.monotonic()
        if self.array is None or self.array[0] == 0:
            _sweep(self.plan)
        waves = self.plan.waves
        for number, wave in enumerate(waves, 1):
            self._prepare(wave)
            mine = [item for item in self.plan.shards if self.mine is None or item.name in self.mine]
            items = _todo(self.plan, wave, mine)
            if items:
                _Wave(self, wave, items, number, rules, shards=len(mine)).through(pool)
            elif number == len(waves):
                self.progress(len(mine), len(mine))
            self._without_failed()
        return Summary(
            shards=self.shards,
            rows=self.rows,
            failed=self.failed,
            blocked=self.blocked,
            counts={name: count for name, count in self.counts.items() if name not in ("done", "blocked")},
            memory=self.memory,
            seconds=time.monotonic() - began,
        )

    def _prepare(self, wave: Sequence[str]) -> None:
        """Let the stages of a wave that want to look at all shards; in an array, the first task does that."""
        for name in wave:
            if self.plan.recipe.stage(name).prepares:
                self._prepare_one(name)

    def _prepare_one(self, stage: str) -> None:
        if self.array is None:
            prepare(self.plan, stage)
            return
        until, pause = time.monotonic() + self.wait, 1.0
        while True:
            began = time.monotonic()
            missing = self._missing(stage)
            if not missing:
                if self.array[0] == 0:
                    prepare(self.plan, stage)
                if self.plan.prepared(stage) is not None:
                    return
            if time.monotonic() >= until:
                what = f"{missing} shards are not through the stages before it" if missing else "task 0 has not done so"
                raise NotReady(
                    f"stage '{stage}' looks at all shards first, and {what}: start the same array again when all "
                    "its tasks have ended."
                )
            pause = min(60.0, max(2 * pause, 10 * (time.monotonic() - began)))
            time.sleep(min(pause, max(0.1, until - time.monotonic())))

    def _missing(self, stage: str) -> int:
        """Shards that have not got what a stage reads; those that any task gave up are left out of the plan."""
        before = self.plan.recipe.before(self.plan.recipe.stage(stage))
        lacking = [item for item in self.plan.shards if any(self.plan.done(s.name, item) is None for s in before)]
        self._leave_out([item.name for item in lacking])
        return sum(item.name not in self.failed for item in lacking)

    def _without_failed(self) -> None:
        if self.array is None:
            self.plan = replace(self.plan, shards=tuple(s for s in self.plan.shards if s.name not in self.failed))

    def _leave_out(self, names: Sequence[str]) -> None:
        for name in names:
            found = attempts.trouble(self.plan, name)
            if found is not None and found.failed:
                self.failed.setdefault(name, found.failed)
        self.plan = replace(self.plan, shards=tuple(s for s in self.plan.shards if s.name not in self.failed))


class _Wave:
    """Shards on their way through one wave."""

    def __init__(
        self, run: _Run, wave: tuple[str, ...], items: list[Item], number: int, rules: Rules, *, shards: int
    ) -> None:
        self.run, self.wave, self.items, self.number, self.shards = run, wave, items, number, shards
        known = {name for name, found in attempts.troubled(run.plan) if found.suspect}
        suspects = [place for place, item in enumerate(items) if item.name in known]
        self.scheduler = Scheduler(range(len(items)), rules, suspects)
        self.rows, self.told = 0, 0.0
        self.before = shards - len(items)
        self.late: deque[tuple[float, int, int]] = deque([(time.monotonic(), 0, 0)], maxlen=256)

    def through(self, make: MakePool) -> None:
        """Until every shard is done or given up.

        Raises:
            MobileClipError: as `run`.
        """
        run, scheduler, rules = self.run, self.scheduler, self.scheduler.rules
        with make(duty(run.plan, self.wave, rules.watchdog, rules.memory), self.items) as pool:
            drive(scheduler, pool, time.monotonic, self._hear, self._tell)
        if scheduler.hopeless:
            raise MobileClipError(
                f"workers end before they begin ({scheduler.hopeless}): see what they print, and whether there is "
                "memory for them."
            )
        run.counts.update(scheduler.counts)
        self._tell(last=True)
        self._judge(last=True)

    def _hear(self, event: Event) -> None:
        run, scheduler, now = self.run, self.scheduler, time.monotonic()
        if isinstance(event, Failed) and event.error:
            raise rebuilt(event.error, event.why)
        left, known = scheduler.left, len(scheduler.failed)
        blamed = scheduler.hear(event, now)
        if blamed is not None:
            attempts.note(run.plan, self.items[blamed].name, "ended", getattr(event, "why", ""))
        if isinstance(event, Isolated) and event.found:
            run.blocked.setdefault(self.items[event.item].name, {}).update(event.found)
        if isinstance(event, Done):
            run.memory = max(run.memory, event.peak)
            self.rows += event.rows
            run.rows += event.rows
        if scheduler.left < left:
            run.shards += isinstance(event, Done)
            self.late.append((now, len(self.items) - scheduler.left, self.rows))
        if len(scheduler.failed) > known:
            item, why = next(reversed(scheduler.failed.items()))
            run.failed[self.items[item].name] = why
            attempts.note(run.plan, self.items[item].name, "failed", why)
            self._judge()

    def _judge(self, *, last: bool = False) -> None:
        """Give up when nothing works, or at the end when too much did not."""
        run, failed = self.run, self.scheduler.failed
        ended = len(self.items) - self.scheduler.left
        nothing = len(failed) == ended and (ended >= FEW or last) and ended > 0
        if not nothing and not (last and len(run.failed) > run.broken_share * run.every):
            return
        name, why = next(iter(run.failed.items()))
        raise DataError(
            f"{len(run.failed)} of {run.every} shards failed, '{name}' for one ({why.rstrip('.')}); what is finished "
            "stays: repair or remove them, or allow more with broken_share."
        )

    def _tell(self, *, last: bool = False) -> None:
        now = time.monotonic()
        if now - self.told < _TELL and not last:
            return
        self.told = now
        done = len(self.items) - self.scheduler.left - len(self.scheduler.failed)
        self.run.progress(self.before + done, self.shards)
        began, ended, rows = self.late[0]
        took, gone = now - began, len(self.items) - self.scheduler.left - ended
        self.run.watch(
            Progress(
                wave=self.number,
                waves=len(self.run.plan.waves),
                stages=self.wave,
                done=self.before + done,
                shards=self.shards,
                rows=self.rows,
                rows_per_s=(self.rows - rows) / took if took > 0 else 0.0,
                seconds_left=self.scheduler.left * took / gone if gone else None,
                workers=self.scheduler.workers,
                in_flight=self.scheduler.in_flight,
                failed=len(self.run.failed),
            )
        )


def share(shards: Sequence[Item], index: int, count: int) -> list[Item]:
    """The shards of one task of an array: every count-th in the order of their names' hashes.

    Tasks that come and go never exchange shards, and neighbours, which are often alike, are spread over tasks.
    """
    ordered = sorted(shards, key=lambda item: hashlib.sha256(item.name.encode()).digest())
    return ordered[index::count]


def _todo(plan: Plan, wave: Sequence[str], items: Sequence[Item]) -> list[Item]:
    """Those that are not through a wave: `Plan.todo`, with many notes asked for at a time, which may lie far away."""

    def missing(item: Item) -> bool:
        return any(plan.done(stage, item) is None for stage in wave)

    threads = _ASK if len(items) > _ASK else 1
    return [item for item, open_ in zip(items, ahead(missing, items, threads=threads), strict=True) if open_]


def _sweep(plan: Plan) -> None:
    """Remove what killed processes were writing long ago; such files never count."""
    stop = time.time() - _LEFT_OVER
    for folder in (*(plan.home(stage.name) for stage in plan.recipe.stages), plan.folder, plan.folder / "blocked"):
        for path in folder.glob(".*.part"):
            try:
                if path.stat().st_mtime < stop:
                    path.unlink()
            except OSError:
                continue  # another run was faster


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
