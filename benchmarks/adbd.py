"""A device for `adb` on this computer: a real adbd in an unpacked Debian, in namespaces of its own.

    with adbd.device() as here:
        android.find(here.serial)

adbd listens on all addresses and gives a shell to whoever connects, so it gets a network that only it is in; a relay on
127.0.0.1 leads there, and pulling the cable is closing the relay. Its processes, its mounts and its /data/local/tmp end
with it. The adb server has a port of its own, so that no other is disturbed. Needs root and what `tests/trixie.sh`
unpacks. It is as good as a phone for everything but the figures.
"""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.adb import call
from mobileclip.errors import MobileClipError

ROOT = Path(os.environ.get("MOBILECLIP_TRIXIE", "/var/cache/mobileclip/trixie"))
"""Where `tests/trixie.sh` unpacks."""
ADBD = "/usr/lib/android-sdk/platform-tools/adbd"
PORT = 5555
_NEW_NETWORK = 0x40000000  # CLONE_NEWNET of sched.h
_START = f"""
ip link set lo up
mount --make-rprivate /
mount -t proc proc "$1/proc"
[ -e "$1/dev/null" ] || mount --bind /dev "$1/dev"
mount -t devpts -o ptmxmode=666 devpts "$1/dev/pts"
mount -t tmpfs -o size="$2",mode=1777 tmpfs "$1/data/local/tmp"
mount --bind "$3" "$1/usr/local/bin"
exec chroot "$1" /bin/sh -c 'while :; do {ADBD} >/dev/null 2>&1; sleep 0.2; done'
"""
"""$1: the root; $2: size of /data/local/tmp; $3: a folder of programs. adbd is started again when it ends, as by
Android's init."""
_SERVER = "ANDROID_ADB_SERVER_PORT"


def why_not() -> str | None:
    """What is missing for a device here; None where nothing is."""
    missing = [name for name in ("adb", "unshare", "ip", "mount", "chroot") if shutil.which(name) is None]
    if missing:
        return f"{', '.join(missing)} not installed"
    if os.geteuid() != 0:
        return "an adbd in namespaces needs root"
    if not (ROOT / ADBD.lstrip("/")).exists():
        return f"no adbd in {ROOT}: run `sh tests/trixie.sh`"
    return None


@dataclass(kw_only=True)
class Local:
    """A running adbd and the cable to it."""

    pid: int
    """The first process of its namespaces."""
    port: int = 0
    """Of the cable's near end on 127.0.0.1; 0 chooses one."""
    _listener: socket.socket | None = None
    _open: list[socket.socket] = field(default_factory=list)

    @property
    def serial(self) -> str:
        """As adb calls it."""
        return f"127.0.0.1:{self.port}"

    def plug(self) -> None:
        """Put the cable in; adb has to connect (again)."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def unplug(self) -> None:
        """Pull it: all connections end, new ones are refused."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
            self._listener.close()
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._listener, self._open = None, []

    def processes(self, name: str) -> list[int]:
        """Process numbers (as this computer counts) of the programs called `name` inside."""
        inside = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = []
        for item in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                same = os.readlink(item / "ns/pid") == inside
                words = (item / "cmdline").read_bytes().split(b"\0")
                if same and Path(words[0].decode()).name == name:
                    found.append(int(item.name))
        return found

    def kill(self, name: str) -> None:
        """End the programs called `name` inside, at once."""
        for number in self.processes(name):
            os.kill(number, signal.SIGKILL)

    def connect(self) -> None:
        """Wait until adbd answers over the cable.

        Raises:
            MobileClipError: it does not in 20 s.
        """
        end = time.monotonic() + 20
        while time.monotonic() < end:
            call(["connect", self.serial], timeout=10)
            code, out = call(["-s", self.serial, "get-state"], timeout=10)
            if code == 0 and out.strip() == b"device":
                return
            call(["disconnect", self.serial], timeout=10)
            time.sleep(0.2)
        raise MobileClipError(
            f"the adbd in {ROOT} does not answer: run `sh tests/trixie.sh`, and look for its messages."
        )

    def _accept(self, listener: socket.socket) -> None:
        _enter_network(self.pid)
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", PORT), timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=_carry, args=(source, sink), daemon=True).start()


@contextmanager
def device(size: str = "1g", programs: Path | None = None) -> Iterator[Local]:
    """Start an adbd, plug it in, and end it with everything it started.

    Args:
        size: of its /data/local/tmp, as tmpfs takes it.
        programs: a folder whose programs it has in /usr/local/bin: what speaks for Android's services.

    Raises:
        MobileClipError: something that it needs is missing.
    """
    missing = why_not()
    if missing is not None:
        raise MobileClipError(f"no adbd can be started here: {missing}.")
    flags = ("--net", "--mount", "--pid", "--fork", "--kill-child=SIGKILL")
    with _own_server(), tempfile.TemporaryDirectory() as empty:
        outer = subprocess.Popen(
            ["unshare", *flags, "sh", "-e", "-c", _START, "adbd", str(ROOT), size, str(programs or empty)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={
                "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            },  # what is set for Python's runtimes is not the device's
        )
        local = Local(pid=0)
        try:
            local.pid = _first_inside(outer)
            local.plug()
            local.connect()
            yield local
        finally:
            local.unplug()
            outer.kill()
            outer.wait()


@contextmanager
def _own_server() -> Iterator[None]:
    """An adb server on a free port, for as long as this lasts."""
    before = os.environ.get(_SERVER)
    with socket.create_server(("127.0.0.1", 0)) as free:
        os.environ[_SERVER] = str(free.getsockname()[1])
    try:
        call(["start-server"], timeout=20, keep=False)
        yield
    finally:
        call(["kill-server"], timeout=20, keep=False)
        del os.environ[_SERVER]
        if before is not None:
            os.environ[_SERVER] = before


def _first_inside(outer: "subprocess.Popen[bytes]") -> int:
    """The process that `unshare` started."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    for _ in range(200):
        if outer.poll() is not None:
            raise MobileClipError(f"no namespaces can be made here (unshare ended with {outer.returncode}).")
        words = children.read_text().split()
        if words:
            return int(words[0])
        time.sleep(0.02)
    raise MobileClipError("no namespaces can be made here: unshare starts nothing.")


def _enter_network(pid: int) -> None:
    """Make this thread's new sockets belong to the network of a process; those that it has stay where they are."""
    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _NEW_NETWORK) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while piece := source.recv(1 << 16):
            sink.sendall(piece)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
