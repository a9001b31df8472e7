"""Makes `commands` and `world` importable by the tests of this folder, and what they make small things with."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE, HERE.parent / "mobileclip" / "dense", HERE.parent / "mobileclip" / "captions"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
