"""`mobileclip report`."""

import json
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make the table of results from result JSONs; with --into, put it into a Markdown file.

    mobileclip report runs/results --into README.md
    """

    results: Positional[tuple[Path, ...]] = (Path("runs/results"),)
    """Files and folders that `mobileclip bench` wrote."""
    into: Path | None = None
    """Markdown file with the two lines that mark where the table belongs."""
    json: bool = False
    """Print the results as one JSON list."""

    def run(self) -> int:
        """Print or insert the table."""
        from benchmarks import results

        found = results.read(self.results)
        if self.into is not None:
            results.insert(self.into, results.table(found))
        print(json.dumps(found) if self.json else results.table(found))
        return 0
