"""`mobileclip inspect`."""

import json
from dataclasses import dataclass

from tyro.conf import Positional

from mobileclip.verbs.screen import counted, table


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Look for everything that is wrong with shards, and say which trainers can read them and why not.

    mobileclip inspect "web/{00000..00127}.tar"
    """

    shards: Positional[tuple[str, ...]]
    """Folders, globs, brace patterns or URLs of tars."""
    decode: bool = False
    """Decode every picture as well."""
    json_keys: tuple[str, ...] = ()
    """String fields of .json that are captions."""
    json: bool = False
    """Print the report as JSON."""

    def run(self) -> int:
        """Inspect; 1 when this toolkit can read nothing of it."""
        from mobileclip.data.doctor import inspect

        with counted("inspecting", "shards", self.json) as tell:
            report = inspect(self.shards, decode=self.decode, json_keys=self.json_keys, progress=tell)
        if self.json:
            print(json.dumps(report.as_dict(), indent=1))
        else:
            sources = ", ".join(f"{count:,} {name}" for name, count in report.sources.items()) or "none"
            licences = ", ".join(f"{count:,} {name or 'without one'}" for name, count in report.licences.items())
            print(f"{report.samples:,} samples in {report.shards:,} shards, {report.bytes / 1e6:,.1f} MB")
            print(f"captions: {sources}\nlicences: {licences or 'none'}")
            table("readers", ("reader", "samples", "why not the others"), report.readers_table())
            if report.problems:
                table("problems", ("problem", "count", "first", "what to do"), report.table())
        return 0 if report.samples else 1
