"""`mobileclip report`."""

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make one HTML page and one table of result JSONs, whichever devices they came from.

    mobileclip report runs/results --html latency.html

    mobileclip report runs/results --into README.md
    """

    results: Positional[tuple[Path, ...]] = (Path("runs/results"),)
    """Files and folders of `mobileclip bench`, of the adb runner, the browser page and the apps."""
    html: Path | None = None
    """Page to write: tables, percentiles, plots; one file that loads nothing."""
    into: Path | None = None
    """Markdown file with the two lines that mark where the table belongs."""
    json: bool = False
    """Print the results as one JSON list."""

    def run(self) -> int:
        """Print or insert the table, write the page."""
        from benchmarks import results

        found = [result for result in results.read(self.results) if "study" not in result]
        if self.html is not None:
            from benchmarks.report import write

            write(found, self.html)
        if self.into is not None:
            results.insert(self.into, results.table(found))
        print(json.dumps(found) if self.json else results.table(found))
        if self.html is not None and not self.json:
            print(f"\n{self.html}")
        return 0
