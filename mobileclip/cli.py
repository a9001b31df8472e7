"""`mobileclip VERB`: parses, calls one function, prints what it gives. Verbs are in mobileclip/verbs/, one a file.

Exit code 0: done. 2: the user's mistake, one sentence on the error stream. 1: an artifact failed its gate, or a fault
of ours. 130: interrupted. 141: nobody reads the output any more (`mobileclip --help | head`).
"""

import os
import select
import sys
from collections.abc import Sequence
from typing import Annotated, Any, TextIO, Union

import tyro
from tyro.conf import subcommand

from mobileclip import versions
from mobileclip.errors import GateFailed, MobileClipError
from mobileclip.verbs.apps import Apps
from mobileclip.verbs.bench import Bench
from mobileclip.verbs.build import Build
from mobileclip.verbs.captions import Captions
from mobileclip.verbs.evaluate import Evaluate
from mobileclip.verbs.export import Export
from mobileclip.verbs.finetune import Finetune
from mobileclip.verbs.inspect import Inspect
from mobileclip.verbs.pack import Pack
from mobileclip.verbs.predict import Predict
from mobileclip.verbs.report import Report
from mobileclip.verbs.sensitivity import Sensitivity
from mobileclip.verbs.train import Train
from mobileclip.verbs.verify import Verify

Verb = Union[  # noqa: UP007 - tyro reads the annotations of a Union's members
    Annotated[Captions, subcommand("captions")],
    Annotated[Pack, subcommand("pack")],
    Annotated[Inspect, subcommand("inspect")],
    Annotated[Train, subcommand("train")],
    Annotated[Evaluate, subcommand("evaluate")],
    Annotated[Finetune, subcommand("finetune")],
    Annotated[Predict, subcommand("predict")],
    Annotated[Sensitivity, subcommand("sensitivity")],
    Annotated[Export, subcommand("export")],
    Annotated[Verify, subcommand("verify")],
    Annotated[Bench, subcommand("bench")],
    Annotated[Report, subcommand("report")],
    Annotated[Apps, subcommand("apps")],
    Annotated[Build, subcommand("build")],
]


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    try:
        try:
            return _run(argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _nobody_reads(sys.stdout):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it ends
        return 141


def _nobody_reads(stream: TextIO) -> bool:
    poll = select.poll()
    poll.register(stream, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _run(argv: Sequence[str] | None) -> int:
    args = list(sys.argv[1:] if argv is None else argv)
    if "--version" in args and set(args) <= {"--version", "--json"}:
        return versions.main(as_json="--json" in args)
    verb: Any = tyro.cli(
        Verb,
        prog="mobileclip",
        description="CLIP with quality captions on phones: from web texts to MCi2 in files that a phone runs.",
        args=args or ["--help"],
    )
    try:
        versions.require(type(verb).__name__.lower())
        code: int = verb.run()
    except MobileClipError as error:
        print(f"mobileclip {type(verb).__name__.lower()}: {error}", file=sys.stderr)
        return 2
    except GateFailed as error:
        print(f"mobileclip {type(verb).__name__.lower()}: {error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; start the same command again to go on", file=sys.stderr)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main())
