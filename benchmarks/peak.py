"""Peak memory of one artifact in a process of its own, as a line of JSON; little else is imported here.

python -m benchmarks.peak ARTIFACT INPUT.npy TARGET THREADS
"""

import json
import resource
import sys
from pathlib import Path

import numpy as np

from export.runtimes import open_artifact


def resident(*, peak: bool) -> float:
    """Resident set of this process in MiB, now or at its largest so far.

    Linux tells it in /proc; its `ru_maxrss` begins with that of the process that started this one. Elsewhere both are
    the largest.
    """
    status = Path("/proc/self/status")
    if status.exists():
        name = "VmHWM:" if peak else "VmRSS:"
        (line,) = (line for line in status.read_text().splitlines() if line.startswith(name))
        return float(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2.0**20  # macOS counts in bytes


def main(artifact: Path, feed: Path, target: str, threads: int) -> None:
    """Load, run twice, print `runtime` (what the process had before) and `peak`."""
    if target == "onnx":
        import onnxruntime  # noqa: F401 - what it needs by itself is `runtime`, not the artifact's
    else:
        from executorch.runtime import Runtime

        Runtime.get()
    pixels = np.load(feed, allow_pickle=False)
    before = resident(peak=False)
    session = open_artifact(artifact, target, threads)
    pixels = pixels.astype(session.inputs[0].dtype)
    for _ in range(2):
        session.run([pixels])
    print(json.dumps({"runtime": before, "peak": resident(peak=True)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
