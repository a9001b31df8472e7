"""Latency on Android by adb: the C++ runner of `benchmarks/runner` on the phone, this module beside it.

    with android.find(None) as phone:
        result = phone.measure(subjects, Plan())

The runner loads each artifact, runs it once, writes its outputs and waits; they are pulled and judged here, and only
right ones are timed. It runs detached, with its log on the phone: a link that is lost does not end it, and what it
measured meanwhile is read when the link is back. Any Linux with an `adbd` is measured the same way.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import numpy as np

from benchmarks import android_facts as facts
from benchmarks.adb import DeviceError, Link, choose, devices
from benchmarks.android_store import FOLDER, Store
from benchmarks.protocol import SCHEMA_VERSION, Plan, State, Subject, checked
from benchmarks.runner_build import NAME, runner_for
from benchmarks.runner_job import MOST_OUTPUT, PROVIDERS, Names, Side, Told, array_of, job_text, side_result
from export.parity import compare_outputs, worst
from mobileclip.errors import MobileClipError

WAIT_S = 600.0
"""How long the runner waits for a word on its outputs: a judge, a cool-down and a lost link fit in."""
SILENCE_S = 600.0
"""A runner that writes nothing for so long hangs."""
POLL_S = 2.0
"""Between two looks at the log while it measures; each look costs the device a little time."""
THERMAL_S = 15.0
"""Between two questions to the thermal service."""
COOL_S = 5.0
"""Between two looks at a device that cools down."""
_ONCE = Plan(runs=2, seconds=0, warmup_runs=1, warmup_s=0, end_to_end=False, cool_s=0)
"""For a side's memory, in a process of its own."""


def find(
    serial: str | None = None, *, patience_s: float = 120.0, keep: bool = False, runner: Path | None = None
) -> "Android":
    """The device that `adb devices` calls `serial`, or the only one.

    Args:
        patience_s: how long a device that was lost is waited for.
        keep: whether what was pushed stays there when the device is closed.
        runner: a runner that was built for this device.

    Raises:
        DeviceError: no device, several without a name, one that is not allowed or does not answer.
    """
    link = Link(serial=choose(devices(), serial), patience_s=patience_s)
    return Android(link=link, keep=keep, runner=runner)


@dataclass(kw_only=True)
class Android:
    """A device by adb; a `benchmarks.protocol.Device`."""

    link: Link
    keep: bool = False
    runner: Path | None = None
    store: Store = field(init=False)

    def __post_init__(self) -> None:
        self.store = Store(link=self.link)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove what was pushed, unless it is to stay; a device that is gone keeps it."""
        if not self.keep:
            with suppress(DeviceError):
                self.store.clear()

    def measure(self, subjects: Sequence[Subject], plan: Plan, *, bare: bool = False) -> dict[str, Any]:
        """Time `subjects`, interleaved; a wrong answer, a killed runner and a lost device are in the result.

        Args:
            bare: whether the runner also times the method's call alone (`Run.told` has it).

        Raises:
            DeviceError: not enough space, or lost before anything was measured.
            MobileClipError: an artifact for another target, or one that the runner cannot load.
        """
        run = self.run(subjects, plan, bare=bare)
        result = run.result()
        if plan.memory and len(subjects) > 1 and run.state == "complete":
            for side, subject in zip(result["sides"], subjects, strict=True):
                side["memory"] = self.run([subject], replace(_ONCE, threads=plan.threads)).result()["sides"][0][
                    "memory"
                ]
        return result

    def run(self, subjects: Sequence[Subject], plan: Plan, *, bare: bool = False) -> "Run":
        """The same, with the log that the result was made of."""
        for subject in subjects:
            if subject.entry["target"] not in PROVIDERS:
                raise MobileClipError(
                    f"{subject.name} is for {subject.entry['target']}, and an Android runner takes "
                    f"{' and '.join(PROVIDERS)}: export it for one of them."
                )
        about = facts.read(self.link)
        files = runner_for(about.abi, about.android, self.runner)
        run = Run(link=self.link, subjects=subjects, plan=plan, about=about)
        try:
            with tempfile.TemporaryDirectory() as folder:
                run.prepare(self.store, files, Path(folder), bare=bare)
            with held_clocks(self.link, about.android) as held:
                run.fixed = held
                run.follow()
        finally:
            run.end()
        return run


@contextmanager
def held_clocks(link: Link, android: bool) -> Iterator[bool | None]:
    """Fixed-performance mode while inside, and off again after; gives whether it is on, None where there is none."""
    held = facts.fix_clocks(link, True) if android else None
    try:
        yield held
    finally:
        if held:
            with suppress(DeviceError):  # where the device is gone, a restart ends the mode
                facts.fix_clocks(link, False, patience_s=5)


@dataclass(kw_only=True)
class Run:
    """One run of the runner on a device."""

    link: Link
    subjects: Sequence[Subject]
    plan: Plan
    about: facts.Facts
    told: Told = field(init=False)
    fixed: bool | None = None
    state: State = "partial"
    problem: str | None = None
    answers: list[dict[str, Any]] = field(init=False)
    thermal: list[dict[str, Any]] = field(default_factory=list)
    battery: dict[str, Any] | None = None
    """After the run."""
    folder: str = field(default_factory=lambda: f"{FOLDER}/run-{uuid4().hex}")
    _date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    _began: float = field(default_factory=time.monotonic)
    _started_s: float = 0.0
    _running: bool = False
    _lost: bool = False

    def __post_init__(self) -> None:
        self.told = Told(sides=[Side() for _ in self.subjects])
        self.answers = [{"right": None} for _ in self.subjects]

    def prepare(self, store: Store, runner: Any, here: Path, *, bare: bool) -> None:
        """Bring all files there and start the runner."""
        inputs = []
        for index, subject in enumerate(self.subjects):
            path = here / f"input{index}.bin"
            path.write_bytes(np.ascontiguousarray(subject.feed).astype(subject.feed.dtype.newbyteorder("<")).tobytes())
            inputs.append(path)
        pictures = [subject.picture for subject in self.subjects if subject.picture is not None]
        names = store.put([*runner.values(), *(subject.file for subject in self.subjects), *inputs, *pictures])
        bundle = {name: names[file] for name, file in runner.items()}
        home = store.folder("runner-" + sha256(repr(sorted(bundle.items())).encode()).hexdigest()[:16], bundle)
        job = here / "job"
        remote = [
            Names(
                program=f"../{names[subject.file]}",
                input=f"../{names[path]}",
                picture=f"../{names[subject.picture]}" if subject.picture is not None else None,
            )
            for subject, path in zip(self.subjects, inputs, strict=True)
        ]
        job.write_text(job_text(self.subjects, remote, self.plan, wait_s=WAIT_S, bare=bare))
        self.link.text(f"mkdir -p {self.folder}")
        self._running = True
        self.link.push(job, f"{self.folder}/job", timeout=60)
        command = f"LD_LIBRARY_PATH={home} {home}/{NAME} job log; echo $? >rc.part; mv rc.part rc"
        self._started_s = time.monotonic() - self._began
        # mkdir is the lock: given again after a lost link, the runner is not started twice. The shell's end hangs up,
        # perhaps before setsid has left its session.
        self.link.text(
            f"cd {self.folder} && trap '' HUP && if mkdir started 2>/dev/null; then\n"
            f"setsid nohup sh -c '{command}' >messages 2>&1 </dev/null &\necho $! >pid; fi"
        )

    def follow(self) -> None:
        """Judge the outputs, let it measure, and read what it says until it ends."""
        try:
            self._until_proved()
            if self.state == "wrong" or self.problem is not None:
                return
            self._cool()
            self._read_thermal("before")
            self.link.text(f"touch {self.folder}/go")
            self._until_over()
            self._read_thermal("after")
            self.battery = facts.battery(self.link) if self.about.android else None
        except DeviceError as error:
            if not self.told.proved:
                raise
            self.problem = str(error)
            self._lost = True

    def end(self) -> None:
        """Stop what still runs there and remove the run's folder; a device that is gone keeps it."""
        if not self._running:
            return
        # The shell that started it leads its session, so its number ends both; not where it is another's by now.
        stop = f"p=$(cat pid 2>/dev/null) && grep -q {NAME} /proc/$p/cmdline 2>/dev/null && kill -9 -- -$p"
        with suppress(DeviceError):
            self.link.shell(
                f"cd {self.folder} 2>/dev/null && {{ touch stop; {stop}; }}; cd /; rm -rf {self.folder}",
                patience_s=0 if self._lost else None,
            )

    def result(self) -> dict[str, Any]:
        """What was measured, as the schema has it."""
        readings = [{**item, "at_s": item["at_s"] + self._started_s} for item in self.told.thermal]
        thermal = [
            item
            for item in sorted(self.thermal + readings, key=lambda item: float(item["at_s"]))
            if any(item.get(key) is not None for key in ("status", "headroom", "celsius", "mhz"))
        ]
        hello = self.told.hello
        cores = hello.get("affinity")
        found = {
            "schema": SCHEMA_VERSION,
            "date": self._date,
            "device": self.about.device(self.link, self.battery),
            "protocol": {
                "order": "ABBA" if len(self.subjects) > 1 else "A",
                "runs": self.plan.runs,
                "seconds": self.plan.seconds,
                "warmup_runs": self.plan.warmup_runs,
                "warmup_s": self.plan.warmup_s,
                "threads": hello["threads"] if isinstance(hello.get("threads"), int) else None,
                "affinity": [core for core in cores if isinstance(core, int)] if isinstance(cores, list) else None,
                "process": "runner",
                "fixed_performance": self.fixed,
                "sustained_s": self.plan.sustained_s,
            },
            "thermal": thermal,
            "sides": [
                side_result(subject, side, self.told, answer, self.plan, subject.file.stat().st_size)
                for subject, side, answer in zip(self.subjects, self.told.sides, self.answers, strict=True)
            ],
            "state": self.state,
            "problem": self.problem,
        }
        return checked(found, f"what {self.link.serial} measured")

    def _until_proved(self) -> None:
        status = "alive"
        silent = time.monotonic()
        while not self.told.proved and status == "alive":
            status, grown = self._look()
            silent = time.monotonic() if grown else silent
            if time.monotonic() - silent > SILENCE_S:
                raise DeviceError(
                    f"the runner on {self.link.serial} says nothing for {SILENCE_S:.0f} s: measure again."
                )
            time.sleep(0.1)
        if not self.told.proved:
            self._unproved(status)
            return
        for index, subject in enumerate(self.subjects):
            self.answers[index] = self._judged(index, subject)
        wrong = [index for index, answer in enumerate(self.answers) if answer["right"] is False]
        if wrong:
            first = self.answers[wrong[0]]
            told = f"{first['db']:.1f} dB" if "db" in first else "outputs of another size"
            self.state = "wrong"
            self.problem = (
                f"{self.subjects[wrong[0]].name} gives a wrong known answer on {self.about.name} ({told}): a wrong "
                "artifact has no latency."
            )

    def _unproved(self, status: str) -> None:
        if self.told.error is not None:
            held = self.told.hello.get("backends")
            names = ", ".join(item for item in held if isinstance(item, str)) if isinstance(held, list) else "nothing"
            raise MobileClipError(
                f"{self.link.serial} cannot run one of {', '.join(item.name for item in self.subjects)}: "
                f"{self.told.error}. Its runner holds {names[:200]}."
            )
        _, out = self.link.shell(f"tail -c 300 {self.folder}/messages")
        said = " ".join(out.decode("ascii", "replace").split())
        raise DeviceError(
            f"the runner ended on {self.link.serial} before it measured anything ({status}): {said or 'no reason told'}"
        )

    def _judged(self, index: int, subject: Subject) -> dict[str, Any]:
        """The outputs of a side's first run against the known ones."""
        arrays, hashes = [], []
        for number, (dtype, shape) in enumerate(self.told.sides[index].outputs):
            path = f"{self.folder}/out{index}.{number}.bin"
            _, data = self.link.shell(f"cat {path}", timeout=120, limit=MOST_OUTPUT)
            hashes.append(sha256(data).hexdigest())
            arrays.append(array_of(data, dtype, shape))
        if not subject.expected:
            return {"right": None, "sha256": hashes}
        whole = [item for item in arrays if item is not None]
        sizes = [item.size for item in whole]
        if len(whole) != len(arrays) or sizes != [item.size for item in subject.expected]:
            return {"right": False, "sha256": hashes}
        found = compare_outputs(whole, subject.expected, subject.entry["outputs"])
        right = all(item.passes(subject.gate) for item in found)
        return {"right": right, **worst(found).as_dict(), "sha256": hashes}

    def _cool(self) -> None:
        """Wait until the device is no longer warm, or long enough."""
        end = time.monotonic() + min(self.plan.cool_s, WAIT_S / 2)
        while (reading := self._read_thermal("cooling")) is not None and reading["status"] not in (None, "nominal"):
            if time.monotonic() >= end:
                return
            time.sleep(COOL_S)
        if self.thermal and self.thermal[-1]["status"] in (None, "nominal"):
            self.thermal.pop()  # it was cool: the reading before says so

    def _until_over(self) -> None:
        silent = asked = time.monotonic()
        while True:
            status, grown = self._look()
            now = time.monotonic()
            silent = now if grown else silent
            if status != "alive":
                break
            if now - silent > SILENCE_S:
                self.problem = f"the runner on {self.link.serial} said nothing for {SILENCE_S:.0f} s and was stopped."
                return
            if now - asked > THERMAL_S:
                self._read_thermal("during")
                asked = now
            if not grown or status == "alive":
                time.sleep(min(POLL_S, max(self.plan.seconds / 4, 0.1)))
        if self.told.done:
            self.state = "complete"
            return
        reason = self.told.error or {"137": "it was killed"}.get(status, f"it ended with {status}")
        self.problem = (
            f"the runner on {self.link.serial} did not finish ({reason}): what it measured until then is kept."
        )

    def _look(self) -> tuple[str, bool]:
        """(`alive`, an exit code or `gone`; whether the log had more)."""
        grown = False
        while True:
            _, out = self.link.shell(
                f"cd {self.folder} && {{ cat rc 2>/dev/null || {{ kill -0 $(cat pid) 2>/dev/null && echo alive; }} "
                f"|| echo gone; }}; tail -c +{self.told.size + 1} log 2>/dev/null | head -c {1 << 20}",
                limit=2 << 20,
            )
            status, _, data = out.partition(b"\n")
            word = status.decode("ascii", "replace").strip()[:20]
            if word != "alive" and not word.isdigit():
                word = "gone"
            if word == "gone" and out.startswith(b"sh:"):
                return word, grown
            self.told.read(data)
            grown = grown or bool(data)
            if not data or word == "alive":
                return word, grown

    def _read_thermal(self, when: str) -> dict[str, Any] | None:
        if not self.about.android:
            return None
        reading = facts.thermal(self.link) | {"when": when, "at_s": time.monotonic() - self._began}
        self.thermal.append(reading)
        return reading
