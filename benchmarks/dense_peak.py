"""Peak memory of one artifact in a process of its own, as a line of JSON; little else is imported here.

python -m benchmarks.dense_peak ARTIFACT INPUT.npy TARGET THREADS
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np

from export.runtimes import open_artifact


def resident() -> float:
    """Largest resident set of this process so far, in MiB (the kernel counts in KiB, macOS in bytes)."""
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / (2.0**20 if sys.platform == "darwin" else 1024)


def main(artifact: Path, feed: Path, target: str, threads: int) -> None:
    """Load, run twice, print `runtime` (what the process had before) and `peak`."""
    from executorch.runtime import Runtime

    Runtime.get()
    pixels = np.load(feed, allow_pickle=False)
    before = resident()
    session = open_artifact(artifact, target, threads)
    for _ in range(2):
        session.run([pixels])
    print(json.dumps({"runtime": before, "peak": resident()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
