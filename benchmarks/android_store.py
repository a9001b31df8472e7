"""Files on a device, by what is in them: nothing is pushed twice, and nothing counts before its hash was read there."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.adb import DeviceError, Link, quoted
from mobileclip.digests import sha256_of

FOLDER = "/data/local/tmp/mobileclip"
"""Where a shell may write and run files on every Android."""
SPARE = 16 << 20
"""Bytes that are left free: logs and outputs of a run."""
SLOWEST = 200_000
"""Bytes a second that a push may take its time for."""
_HASH = re.compile(r"^([0-9a-f]{64})\s+\*?(?:\./)?([0-9a-f]{64})$")


@dataclass(kw_only=True)
class Store:
    """The folder of this project on one device."""

    link: Link
    pushed: list[str] = field(default_factory=list)
    """Names of the files that went over the link."""

    def put(self, files: Sequence[Path]) -> Mapping[Path, str]:
        """Bring files there that are not yet; file -> its hash, which is its name in `FOLDER`.

        Raises:
            DeviceError: no room, a file that arrived broken, or a lost device.
        """
        hashes = {file: sha256_of(file) for file in files}
        self.link.text(f"mkdir -p {FOLDER}")
        there = self._there(set(hashes.values()))
        missing = {name: file for file, name in hashes.items() if name not in there}
        need = sum(file.stat().st_size for file in missing.values())
        free = self._free()
        if need and need + SPARE > free:
            raise DeviceError(
                f"{self.link.serial} has {free / 1e6:,.0f} MB free and {(need + SPARE) / 1e6:,.0f} MB are needed in "
                f"{FOLDER}: free some, or measure fewer artifacts at once."
            )
        for name, file in missing.items():
            self._push(file, name)
        return hashes

    def folder(self, name: str, files: Mapping[str, str]) -> str:
        """A folder whose files, name -> hash, are links to what is there; its path."""
        path = f"{FOLDER}/{name}"
        links = " && ".join(f"ln -sf ../{value} {quoted(f'{path}/{key}')}" for key, value in files.items())
        self.link.text(f"mkdir -p {path} && {links} && chmod 755 {' '.join(f'{FOLDER}/{v}' for v in files.values())}")
        return path

    def clear(self) -> None:
        """Remove all that was brought there; a device that is gone is not waited for.

        Raises:
            DeviceError: it is gone.
        """
        self.link.shell(f"rm -rf {FOLDER}", timeout=60, patience_s=2)

    def _there(self, wanted: set[str]) -> set[str]:
        """Those of the hashes whose files are there and whole."""
        names = " ".join(sorted(wanted))
        _, out = self.link.shell(f"cd {FOLDER} && sha256sum {names} 2>/dev/null", timeout=300)
        found = [_HASH.match(line.strip()) for line in out.decode("utf-8", "replace").splitlines()]
        return {match[2] for match in found if match and match[1] == match[2]} & wanted

    def _free(self) -> int:
        """Bytes that may be written in `FOLDER`."""
        line = self.link.text(f"df -P -k {FOLDER}").splitlines()[-1].split()
        if len(line) < 4 or not line[3].isdigit():
            raise DeviceError(f"{self.link.serial} does not tell how much space it has (`df -P -k {FOLDER}`).")
        return 1024 * int(line[3])

    def _push(self, file: Path, name: str) -> None:
        part = f"{FOLDER}/{name}.part"
        self.link.push(file, part, timeout=60 + file.stat().st_size / SLOWEST)
        _, out = self.link.shell(f"sha256sum {part}", timeout=300)
        if out.decode("utf-8", "replace").split()[:1] != [name]:
            self.link.shell(f"rm -f {part}")
            raise DeviceError(f"{file.name} arrived broken on {self.link.serial}: check the cable and measure again.")
        self.link.text(f"if [ -e {part} ]; then mv {part} {FOLDER}/{name}; fi")
        self.pushed.append(file.name)
