"""What a device by adb tells of itself: model, processor, system, battery, heat; and its fixed-performance mode.

`getprop`, `dumpsys` and `cmd` are Android's; another Linux with an adbd has none of them and is told by its own files.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.adb import Link
from benchmarks.runner_job import STATUS

_PROPERTY = re.compile(r"^\[([\w.]+)\]: \[(.*)\]$", re.MULTILINE)
_SEPARATOR = "-- next --"
_BATTERY = ("level", "temperature", "status", "AC powered", "USB powered")
"""Of `dumpsys battery`: percent, tenths of a degree, BatteryManager's number, two booleans."""
SKIN = 3
"""`mType` of a skin sensor in `dumpsys thermalservice` (android.hardware.thermal TemperatureType)."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A device."""

    android: bool
    abi: str
    """Of Android `arm64-v8a`, ...; of another Linux what uname says."""
    name: str
    model: str | None
    soc: str | None
    os: str | None
    cores: int | None
    memory_bytes: int | None
    details: Mapping[str, Any]

    def device(self, link: Link, battery_after: Mapping[str, Any] | None) -> dict[str, Any]:
        """As the result's schema has it."""
        return {
            "kind": "android",
            "name": self.name,
            "model": self.model,
            "soc": self.soc,
            "os": self.os,
            "cores": self.cores,
            "memory_bytes": self.memory_bytes,
            "details": {
                **self.details,
                "battery_after": battery_after,
                "android": self.android,
                "abi": self.abi,
                "link_losses": link.losses,
            },
        }


def read(link: Link) -> Facts:
    """Ask a device what it is."""
    told = link.text(
        f"getprop 2>/dev/null; echo '{_SEPARATOR}'; uname -m; grep -c ^processor /proc/cpuinfo; "
        f"grep MemTotal /proc/meminfo; echo '{_SEPARATOR}'; grep -m1 'model name' /proc/cpuinfo; echo '{_SEPARATOR}'; "
        "grep PRETTY_NAME /etc/os-release 2>/dev/null; true"
    )
    told = re.sub(r"[^\x20-\x7e\n]", "?", told.replace("\r", ""))
    properties, kernel, processor, release = [part.strip() for part in (told + "\n").split(_SEPARATOR)][:4]
    known = dict(_PROPERTY.findall(properties))
    lines = kernel.splitlines()
    cores = int(lines[1]) if len(lines) > 1 and lines[1].isdigit() else None
    memory = re.search(r"MemTotal:\s*(\d{1,15}) kB", kernel)
    android = bool(known.get("ro.build.version.release"))
    system = release.partition("=")[2].strip('"')[:100] or None
    model = " ".join(filter(None, (known.get("ro.product.manufacturer"), known.get("ro.product.model")))) or None
    soc = " ".join(filter(None, (known.get("ro.soc.manufacturer"), known.get("ro.soc.model")))) or None
    if android:
        system = f"Android {known['ro.build.version.release']} ({known.get('ro.build.id', '?')})"
    return Facts(
        android=android,
        abi=known.get("ro.product.cpu.abi") or (lines[0] if lines else "unknown"),
        name=model or f"{system or 'a Linux'} by adb",
        model=model,
        soc=soc or processor.partition(":")[2].strip()[:100] or None,
        os=system,
        cores=cores,
        memory_bytes=1024 * int(memory[1]) if memory else None,
        details={"fingerprint": known.get("ro.build.fingerprint"), "battery": battery(link) if android else None},
    )


def battery(link: Link) -> dict[str, Any]:
    """What `dumpsys battery` says, temperature in degrees; empty where there is none."""
    code, out = link.shell("dumpsys battery")
    return parsed_battery(out.decode("utf-8", "replace")) if code == 0 else {}


def parsed_battery(text: str) -> dict[str, Any]:
    """The lines of `dumpsys battery` that matter for a measurement."""
    found: dict[str, Any] = {}
    for name in _BATTERY:
        match = re.search(rf"^\s*{name}: (true|false|-?\d{{1,6}})\s*$", text, re.MULTILINE)
        if match:
            word = match[1]
            found[name.lower().replace(" ", "_")] = word == "true" if word in ("true", "false") else int(word)
    if "temperature" in found:
        found["celsius"] = found.pop("temperature") / 10
    return found


def thermal(link: Link) -> dict[str, Any]:
    """A reading of the thermal service: status, and the warmest skin sensor in degrees, else the battery; None each
    where not told."""
    code, out = link.shell("dumpsys thermalservice")
    found = parsed_thermal(out.decode("utf-8", "replace") if code == 0 else "")
    return found if found["celsius"] is not None else found | {"celsius": battery(link).get("celsius")}


def parsed_thermal(text: str) -> dict[str, Any]:
    """Status and skin temperature in what `dumpsys thermalservice` prints."""
    status = re.search(r"^\s*Thermal Status: ([0-6])\s*$", text, re.MULTILINE)
    skins = re.findall(rf"mValue=(-?\d{{1,4}}(?:\.\d{{1,6}})?), mType={SKIN}\b", text)
    warmest = max((float(value) for value in skins), default=None)
    return {"status": STATUS[int(status[1])] if status else None, "celsius": warmest}


def fix_clocks(link: Link, on: bool, *, patience_s: float | None = None) -> bool | None:
    """Turn fixed-performance mode on or off (Android 11); whether it is on, None where the system has none."""
    command = f"cmd power set-fixed-performance-mode-enabled {'true' if on else 'false'}"
    code, out = link.shell(command, patience_s=patience_s)
    if code != 0 or re.search(rb"Unknown|not found|Exception|Error|Failed", out):
        return None
    return on
