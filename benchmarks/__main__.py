"""`python -m benchmarks NAME`: studies too long for `mobileclip bench`; each writes JSON and prints a table."""

import sys
from collections.abc import Sequence
from importlib import import_module

from mobileclip.errors import MobileClipError, UnknownName

STUDIES = ("loader", "step", "learning")
"""Modules of this package with `main(argv) -> int`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one study; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(f"usage: python -m benchmarks {{{','.join(STUDIES)}}} [options]; each has --help")
        return 0
    try:
        if args[0] not in STUDIES:
            raise UnknownName("study", args[0], STUDIES)
        code: int = import_module(f"benchmarks.{args[0]}").main(args[1:])
    except MobileClipError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
