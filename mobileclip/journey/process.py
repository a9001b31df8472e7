"""Steps as processes: one that loses this process ends too, and what a killed one leaves is ended before the next.

    code, answer, last = run(root, step, hold, print)

A step is the leader of a group of processes of its own, so that what it started can be ended with it; `hold` is a
locked file that all of them inherit, so a lock that cannot be had tells that some still live.
"""

import ctypes
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from mobileclip.data.arrays import writing
from mobileclip.errors import OutputError
from mobileclip.journey.records import LOG
from mobileclip.journey.steps import Step

Say = Callable[[str], None]
"""Takes a line."""

_GRACE = 60.0  # seconds that what is asked to end has to end by itself


def run(root: Path, step: Step, hold: BinaryIO, watch: Say) -> tuple[int, Any, str]:
    """Exit code, the JSON that the step printed, and the last line that it said."""
    program = [sys.executable, "-m", "mobileclip.cli", *step.arguments] if not step.launch else list(step.command)
    paths = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath))
    environment = os.environ | {"PATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    last, out = "", list[str]()
    with (root / LOG).open("a", encoding="utf-8") as log:
        _note(log, step.name, f"$ {shlex.join(step.command)}")
        try:
            child = subprocess.Popen(
                [*program, "--json"],
                cwd=root,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
                pass_fds=(hold.fileno(),),
                preexec_fn=_ends_with_us if sys.platform == "linux" else None,
            )
        except OSError as error:
            reason = f"{program[0]} cannot be started ({error.strerror}): set launch to a command that is there"
            return 2, None, reason
        _leader(hold, child.pid)
        assert child.stdout is not None
        assert child.stderr is not None
        reading = threading.Thread(target=lambda pipe: out.append(pipe.read()), args=(child.stdout,), daemon=True)
        reading.start()
        try:
            for line in child.stderr:
                _note(log, step.name, line.rstrip())
                watch(line.rstrip())
                last = line.strip() or last
            code = child.wait()
        except BaseException:
            _ended(child)
            raise
        reading.join()
        _note(log, step.name, f"exit code {code}")
    try:
        return code, json.loads("".join(out)), last
    except ValueError:
        return code, None, last


def _note(log: TextIO, name: str, line: str) -> None:
    with writing(Path(log.name)):
        log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {name} | {line}\n")
        log.flush()


def _ended(child: "subprocess.Popen[str]") -> None:
    """Ask a step to stop, as a terminal would, and wait for it: training keeps what it has."""
    for sign in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        child.send_signal(sign)
        try:
            child.wait(_GRACE)
            return
        except subprocess.TimeoutExpired:
            continue


_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def _ends_with_us() -> None:
    """The kernel sends SIGTERM when this process is gone (prctl, PR_SET_PDEATHSIG)."""
    assert _LIBC is not None
    _LIBC.prctl(1, signal.SIGTERM)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, so that the step that runs is ended in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def alone(root: Path, say: Say) -> Iterator[BinaryIO]:
    """One build in a folder: a locked file of this process, and one that its steps hold as long as any of them lives.

    Raises:
        OutputError: another build works there.
    """
    import fcntl

    with writing(root):
        own, hold = (root / ".build").open("a+b"), (root / ".steps").open("a+b")
    with own, hold:
        try:
            fcntl.flock(own, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"another build works in {root}: wait for it, or take another folder.") from error
        patience = 0.0
        while True:
            try:
                fcntl.flock(hold, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if not patience:
                    say("a step of an earlier run is still ending: waiting for it")
                    patience = time.monotonic() + _GRACE
                if time.monotonic() > patience:
                    _kill_group(hold)
                time.sleep(0.2)
        yield hold


def _leader(hold: BinaryIO, group: int) -> None:
    """Note which group of processes works here."""
    hold.seek(0)
    hold.truncate()
    hold.write(str(group).encode())
    hold.flush()


def _kill_group(hold: BinaryIO) -> None:
    """End what an earlier run left; as long as the lock is held, the group that is noted is that run's."""
    hold.seek(0)
    text = hold.read(32)
    if text.isdigit():
        try:
            os.killpg(int(text), signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            return
