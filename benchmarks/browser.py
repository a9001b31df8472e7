"""Latency in a browser: the page of `benchmarks/page` in headless Chromium here. Phones: `browser_phone.serve`.

    find().measure(subjects, plan)                  # Chromium on this machine, WebAssembly

A provider is what runs the artifact inside of onnxruntime-web: `wasm` or `webgpu`. The one that was asked for runs it
or the result says why not; none replaces another. Chromium here is a computer's browser: its figures do not predict a
phone's.
"""

import os
import queue
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from benchmarks import protocol
from benchmarks.browser_page import built
from benchmarks.browser_server import PageServer, files_of, job_of
from benchmarks.host import about
from benchmarks.protocol import Plan, Subject
from mobileclip.errors import MobileClipError, UnknownName

Provider = Literal["wasm", "webgpu"]
PROVIDERS: tuple[Provider, ...] = get_args(Provider)
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Names of the program, in the order in which they are looked for."""
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # containers have none to give; the one page that is opened is our own
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--enable-blink-features=ForceEagerMeasureMemory",  # else memory is told after the next collection of garbage
    "--no-default-browser-check",
    "--no-first-run",
    "--window-size=400,900",
)
SILENT_S = 120.0
"""The page says something every second; so long without a word and it is lost."""
STUCK_S = 900.0
"""Longest without any progress: a large artifact that is compiled for a graphics processor."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Browser:
    """Headless Chromium on this machine, as a `Device`."""

    program: Path
    """Chromium."""
    provider: Provider = "wasm"
    """What runs the artifacts."""
    software: bool = False
    """Whether WebGPU may be software where there is no graphics processor: it proves what is computed, not how fast."""
    flags: tuple[str, ...] = ()
    """Further flags of Chromium."""
    say: Say = lambda line: None
    """Told how far it is."""

    def measure(self, subjects: Sequence[Subject], plan: Plan) -> dict[str, Any]:
        """Time `subjects`, interleaved, in one page.

        Raises:
            MobileClipError: no npm to build the page, a browser without the provider, an artifact that is not that of
                its manifest, or a browser that ends before anything is measured.
        """
        job, data = job_of(subjects, plan, [self.provider], start=True, software=self.software)
        files = files_of(built(say=self.say)) | data
        with PageServer(files, job) as server, self._chromium(server.url) as watched:
            return _with_machine(self._wait(server, watched), watched.peak)

    @contextmanager
    def _chromium(self, url: str) -> Iterator["_Watched"]:
        gpu = ("--enable-unsafe-webgpu",) if self.provider == "webgpu" else ("--disable-gpu",)
        # Chromium's last processes still write there for a moment after they were told to end
        with tempfile.TemporaryDirectory(prefix="mobileclip-browser-", ignore_cleanup_errors=True) as folder:
            words = Path(folder) / "words"
            command = [str(self.program), *FLAGS, *gpu, *self.flags, f"--user-data-dir={folder}/profile", url]
            with words.open("wb") as log:
                process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            try:
                yield _Watched(process, words)
            finally:
                _end(process)

    def _wait(self, server: PageServer, watched: "_Watched") -> dict[str, Any]:
        """What the page hands back; what it had so far where it is lost."""
        partial: dict[str, Any] | None = None
        heard = moved = time.monotonic()
        last = ""
        while True:
            try:
                kind, said = server.events.get(timeout=0.5)
            except queue.Empty:
                lost = watched.lost()
                now = time.monotonic()
                if lost is None and now - heard > SILENT_S:
                    lost = f"the page has said nothing for {SILENT_S:g} s"
                if lost is None and now - moved > STUCK_S:
                    lost = f"the page has got no farther than '{last}' for {STUCK_S:g} s"
                if lost is not None:
                    return _cut_short(partial, f"{lost}, while {last or 'it started'}", self.program)
                continue
            heard = time.monotonic()
            if kind == "result":
                watched.look()
                return protocol.checked(said, "what the browser measured")
            if kind == "failed":
                raise MobileClipError(f"the browser measured nothing: {str(said.get('message'))[:500]}")
            if kind == "partial":
                watched.look()
                partial, moved = said, heard
            elif str(said.get("text")) != last:
                last, moved = str(said.get("text"))[:200], heard
                self.say(last)


def find(name: str | None = None, say: Say = lambda line: None) -> Browser:
    """Chromium on this machine.

    Args:
        name: the provider, `wasm` or `webgpu`; WebAssembly when None.

    Raises:
        UnknownName: no such provider.
        MobileClipError: there is no Chromium.
    """
    chosen = next((known for known in PROVIDERS if known == (name or "wasm")), None)
    if chosen is None:
        raise UnknownName("provider of a browser", str(name), PROVIDERS)
    program = next((found for known in CHROMIUM if (found := shutil.which(known))), None)
    if program is None:
        raise MobileClipError(
            f"no browser is here that can be driven: looked for {', '.join(CHROMIUM)} on PATH; install Chromium, or "
            "open the page on another device with benchmarks.browser_phone.serve."
        )
    return Browser(program=Path(program), provider=chosen, say=say)


class _Watched:
    """Chromium while it runs."""

    def __init__(self, process: "subprocess.Popen[bytes]", words: Path) -> None:
        self.process, self.words = process, words
        self.peak: int | None = None

    def lost(self) -> str | None:
        """How it ended; None while it runs."""
        code = self.process.poll()
        if code is None:
            return None
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        lines = self.words.read_text(errors="replace").splitlines()
        return f"Chromium {how}" + (f" ({lines[-1][:200]})" if code > 0 and lines else "")

    def look(self) -> None:
        """Note the most memory that one of its pages ever held (resident, in bytes; Linux only)."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                session = int((folder / "stat").read_text().rpartition(")")[2].split()[3])
                if session != self.process.pid or b"--type=renderer" not in (folder / "cmdline").read_bytes():
                    continue
                told = (folder / "status").read_text()
            except (OSError, ValueError, IndexError):  # it ended meanwhile
                continue
            found = [int(line.split()[1]) * 1024 for line in told.splitlines() if line.startswith("VmHWM:")]
            self.peak = max([self.peak or 0, *found]) or None


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End Chromium and its children, all of the session that was started for them."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, how)
        except ProcessLookupError:
            break
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            continue


def _cut_short(partial: dict[str, Any] | None, why: str, program: Path) -> dict[str, Any]:
    if partial is None:
        raise MobileClipError(f"{why}: nothing was measured; does `{program.name} --headless` run here at all?")
    found = protocol.checked(partial, "what the browser measured")
    wrong = found["problem"] if found["state"] == "wrong" else None
    return found | {
        "state": "wrong" if wrong else "partial",
        "problem": wrong or f"{why}: what it had measured is kept.",
    }


def _with_machine(result: dict[str, Any], peak: int | None) -> dict[str, Any]:
    """A result of Chromium here, with what the machine tells that a page cannot know."""
    machine = about()
    device = result["device"]
    device |= {"soc": machine["model"], "memory_bytes": machine["memory_bytes"], "cores": machine["cores"]}
    device["details"]["machine"] = machine["details"]
    if peak is not None:
        for side in result["sides"]:
            side["memory"]["peak_bytes"] = peak
        device["details"]["peak_memory"] = "resident, of the page's process"
    return result
