"""The runner's binary for a device: built here for this computer's kind of processor, given by the user for others.

A build is kept by what it was made of: the sources' hash and ExecuTorch's version. Building needs cmake and a C++
compiler, and takes about 20 s once.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from mobileclip.errors import MobileClipError

NAME = "mobileclip_runner"
SOURCE = Path(__file__).parent / "runner"
VARIABLE = "MOBILECLIP_RUNNER"
"""Names a runner that was built for a device; libraries beside it are taken along."""
LIBRARIES = ("", "_kernels_optimized", "_kernels_quantized", "_backend_xnnpack", "_threadpool")
"""Of the wheel, what the runner links."""


def runner_for(abi: str, android: bool, given: Path | None = None) -> Mapping[str, Path]:
    """Name on the device -> file here: the runner, and the libraries that it loads.

    Args:
        abi: as `ro.product.cpu.abi` or `uname -m` says.
        given: a runner that was built for the device; the variable names it too.
        android: whether the device is an Android; another Linux of this processor runs what is built here.

    Raises:
        MobileClipError: no runner for this device, with how to build one.
    """
    named = given or os.environ.get(VARIABLE)
    if named:
        return _given(Path(named))
    if not android and abi == platform.machine():
        return built()
    raise MobileClipError(
        f"no runner for {abi}{' Android' if android else ''} is here: build one with the NDK as "
        f"{SOURCE.name}/README.md says ({SOURCE}) and name its file in {VARIABLE}."
    )


def built(cache: Path | None = None) -> Mapping[str, Path]:
    """Build the runner for this computer, once for each version of its sources and of ExecuTorch.

    Raises:
        MobileClipError: cmake or a compiler is missing, or the build fails.
    """
    package = _package()
    cache = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mobileclip" / "runner"
    program = cache / f"{_source_hash()}-{version('executorch')}" / NAME
    if not program.exists():
        _build(package, program)
    return {NAME: program} | {
        f"libexecutorch{part}.so": package / "lib" / f"libexecutorch{part}.so" for part in LIBRARIES
    }


def _given(program: Path) -> Mapping[str, Path]:
    if not program.is_file():
        raise MobileClipError(f"{VARIABLE} names {program}, which is no file: name the runner's binary.")
    return {NAME: program} | {item.name: item for item in sorted(program.parent.glob("*.so"))}


def _package() -> Path:
    import executorch

    return Path(next(iter(executorch.__path__)))


def _source_hash() -> str:
    digest = hashlib.sha256()
    for file in sorted(SOURCE.iterdir()):
        if file.suffix in (".cpp", ".h", ".txt"):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(package: Path, program: Path) -> None:
    cmake = shutil.which("cmake")
    if cmake is None:
        raise MobileClipError(
            "the runner cannot be built: cmake is missing; install it (3.24 or newer) and a compiler."
        )
    program.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=program.parent) as folder:
        steps = (
            [cmake, "-S", str(SOURCE), "-B", folder, f"-DEXECUTORCH_PACKAGE={package}"],
            [cmake, "--build", folder, "--parallel", str(min(os.cpu_count() or 1, 4))],
        )
        for step in steps:
            ran = subprocess.run(step, capture_output=True, text=True, timeout=900)
            if ran.returncode != 0:
                reasons = [line for line in (ran.stdout + ran.stderr).splitlines() if "rror" in line]
                reason = reasons[0].strip() if reasons else f"exit code {ran.returncode}"
                raise MobileClipError(
                    f"the runner cannot be built ({reason[:200]}): see {SOURCE / 'README.md'} for what it needs."
                )
        os.replace(Path(folder) / NAME, program)
