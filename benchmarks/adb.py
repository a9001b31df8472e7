"""A thin client of `adb`: which devices there are, one command on one of them, one file onto it.

    link = Link(choose(devices(), None))
    link.shell("uname -m")

Every call has a time limit and a limit of bytes; what a device answers is text to be parsed, nothing more. A command
says by a mark of this process's own that it was run to its end: without it the link was lost, the client connects again
(over TCP) or waits for the cable, and gives the command once more. So commands have to be such that twice is as good as
once.
"""

import os
import re
import secrets
import selectors
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mobileclip.errors import MobileClipError

_MARK = f"end-{secrets.token_hex(8)}"
_TCP = re.compile(r"^(\[[0-9a-fA-F:]+\]|[^:\s]+):\d{1,5}$")
_HINTS = {
    "unauthorized": "unlock it and allow this computer in the question on its screen",
    "authorizing": "unlock it and allow this computer in the question on its screen",
    "offline": "plug it in again, or run `adb reconnect`",
    "no permissions": "let this user open USB devices (a udev rule), then plug it in again",
    "recovery": "start Android on it",
    "sideload": "start Android on it",
    "bootloader": "start Android on it",
}
"""State that adb tells -> what to do about it."""


class DeviceError(MobileClipError):
    """A device that is not there, not allowed, full, or lost."""


class LinkLost(Exception):
    """The device did not answer; the caller connects again."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of `adb devices -l`."""

    serial: str
    state: str
    """`device` where it can be used."""
    about: Mapping[str, str]
    """model, product, transport_id, ..."""


def listed(text: str) -> list[Listed]:
    """What `adb devices -l` printed, one device each."""
    found = []
    for line in text.splitlines():
        parts = line.split()
        if len(parts) < 2 or line.startswith(("List of devices", "*", "adb server")):
            continue
        serial, state = parts[:2]
        if line.split(maxsplit=1)[1].startswith("no permissions"):
            state = "no permissions"
        about = dict(item.split(":", 1) for item in parts[2:] if ":" in item)
        found.append(Listed(serial=serial, state=state, about=about))
    return found


def devices() -> list[Listed]:
    """The devices that adb sees now.

    Raises:
        DeviceError: adb is not installed or does not answer.
    """
    call(["start-server"], timeout=20, keep=False)
    code, out = call(["devices", "-l"], timeout=20)
    if code != 0:
        raise DeviceError(f"adb does not answer ({_line(out)}): run `adb kill-server`, then try again.")
    return listed(out.decode("utf-8", "replace"))


def choose(found: Sequence[Listed], serial: str | None) -> str:
    """The serial number of the device that is meant.

    Raises:
        DeviceError: none, several and none named, one that is not there, or one that cannot be used.
    """
    names = ", ".join(f"{item.serial} ({item.about.get('model', item.state)})" for item in found)
    if serial is None:
        usable = [item for item in found if item.state == "device"]
        if len(usable) > 1 or (not usable and len(found) > 1):
            raise DeviceError(f"{len(found)} devices are connected: name one with adb:SERIAL. There are {names}.")
        found = usable or found
        if not found:
            raise DeviceError(
                "no Android device is connected: allow USB debugging on one and plug it in, or `adb connect` it."
            )
        chosen = found[0]
    else:
        there = [item for item in found if item.serial == serial]
        if not there:
            raise DeviceError(f"no device {serial} is connected: there are {names or 'none'}.")
        chosen = there[0]
    if chosen.state != "device":
        hint = _HINTS.get(chosen.state, "wait until `adb devices` calls it `device`")
        raise DeviceError(f"{chosen.serial} cannot be used, adb says '{chosen.state}': {hint}.")
    return chosen.serial


def call(arguments: Sequence[str], *, timeout: float, limit: int = 1 << 20, keep: bool = True) -> tuple[int, bytes]:
    """Run adb; its exit code and at most `limit` bytes of what it printed (both streams).

    Args:
        keep: False drops the output: a server that adb starts would hold the pipe open.

    Raises:
        DeviceError: adb is not installed.
        LinkLost: no end in `timeout` seconds, or more output than `limit`.
    """
    program = shutil.which("adb")
    if program is None:
        raise DeviceError("adb is not installed: install Android's platform-tools (Debian: apt-get install adb).")
    into = subprocess.PIPE if keep else subprocess.DEVNULL
    process = subprocess.Popen(
        [program, *arguments], stdin=subprocess.DEVNULL, stdout=into, stderr=subprocess.STDOUT if keep else into
    )
    try:
        out = _read(process, time.monotonic() + timeout, limit) if keep else b""
        return process.wait(timeout if not keep else 5), out
    except subprocess.TimeoutExpired as error:
        raise LinkLost(f"adb {arguments[0]} took longer than {timeout:.0f} s") from error
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _read(process: "subprocess.Popen[bytes]", end: float, limit: int) -> bytes:
    """What a process prints until it closes its output."""
    assert process.stdout is not None
    out = bytearray()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            left = end - time.monotonic()
            if left <= 0 or not selector.select(left):
                raise LinkLost("adb gave no answer in time")
            piece = os.read(process.stdout.fileno(), 1 << 16)
            if not piece:
                return bytes(out)
            out += piece
            if len(out) > limit:
                raise LinkLost(f"the device sent more than the {limit:,} bytes that were asked for")


@dataclass(kw_only=True)
class Link:
    """One device; commands on it survive a cable that is pulled and plugged in again."""

    serial: str
    patience_s: float = 120.0
    """How long to wait for a device that was lost."""
    losses: int = field(default=0, init=False)
    """How often it was lost and came back."""

    def shell(
        self, command: str, *, timeout: float = 30.0, limit: int = 1 << 20, patience_s: float | None = None
    ) -> tuple[int, bytes]:
        """Run a command there; its exit code and output (both streams). Given again when the link was lost.

        Raises:
            DeviceError: the device was lost and did not come back.
        """
        end = time.monotonic() + (self.patience_s if patience_s is None else patience_s)
        lost = False
        while True:
            try:
                answer = self._once(command, timeout, limit)
            except LinkLost as error:
                lost = True
                self._reconnect(end, error)
                continue
            self.losses += lost
            return answer

    def text(self, command: str, *, timeout: float = 30.0) -> str:
        """The output of a command that must go well, stripped.

        Raises:
            DeviceError: it failed, or the device was lost.
        """
        code, out = self.shell(command, timeout=timeout)
        told = out.decode("utf-8", "replace").strip()
        if code != 0:
            raise DeviceError(f"{self.serial} cannot do `{command[:80]}` (exit code {code}): {_line(out)}.")
        return told

    def push(self, file: Path, remote: str, *, timeout: float) -> None:
        """Copy a file there; over again when the link was lost meanwhile.

        Raises:
            DeviceError: the device did not take it, or was lost.
        """
        end = time.monotonic() + self.patience_s + timeout
        while True:
            try:
                code, out = call(["-s", self.serial, "push", str(file), remote], timeout=timeout)
            except LinkLost as error:
                self.losses += 1
                self._reconnect(end, error)
                continue
            if code == 0:
                return
            before = self.losses
            self.shell("true")  # tells a lost link from a device that refuses
            if self.losses == before:
                try:
                    self._once("true", 10, 1 << 10)
                except LinkLost:
                    continue
                reason = _line(out).rpartition("': ")[2]  # adb tells both names first
                raise DeviceError(f"{self.serial} did not take {file.name}: {reason}.")

    def _once(self, command: str, timeout: float, limit: int) -> tuple[int, bytes]:
        told = f"{{ {command}\n}} 2>&1; printf '\\n{_MARK} %s' $?"
        _, out = call(["-s", self.serial, "exec-out", told], timeout=timeout, limit=limit + 256)
        head, mark, tail = out.rpartition(f"\n{_MARK} ".encode())
        if not mark or not tail.strip().isdigit():
            raise LinkLost(_line(out))
        return int(tail), head

    def _reconnect(self, end: float, reason: Exception) -> None:
        """One try to get the device back; raises when the time is over."""
        if time.monotonic() >= end:
            raise DeviceError(
                f"{self.serial} was lost ({str(reason)[:120]}) and did not come back in {self.patience_s:.0f} s: "
                "plug it in again and measure again."
            ) from reason
        if _TCP.match(self.serial):
            for step in ("disconnect", "connect"):
                with suppress(LinkLost):
                    call([step, self.serial], timeout=10)
        time.sleep(0.5)


def quoted(path: str) -> str:
    """A name as one word of the device's shell."""
    return shlex.quote(path)


def _line(out: bytes) -> str:
    """The line of what adb or the device said that tells an error, or the last; nothing that could upset a terminal."""
    lines = [line.strip() for line in out.decode("utf-8", "replace").splitlines() if line.strip()]
    wrong = [line for line in lines if "error" in line.lower()]
    return re.sub(r"[^\x20-\x7e]", "?", (wrong or lines)[-1])[:600].rstrip(".") if lines else "no answer"
