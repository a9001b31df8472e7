"""What verbs share: progress, tables, and lists in files."""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mobileclip.errors import MobileClipError

Progress = Callable[[str], None]


def lines(path: Path, what: str) -> list[str]:
    """The lines of a file that are not empty."""
    try:
        found = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise MobileClipError(f"{path} cannot be read as UTF-8 text with one {what} a line ({error}).") from error
    if not found:
        raise MobileClipError(f"{path} holds no {what}: put one a line.")
    return found


@contextmanager
def progress(doing: str, quiet: bool) -> Iterator[Progress]:
    """A spinner on a terminal, plain lines elsewhere, on the error stream; converters are kept quiet."""
    from rich.console import Console

    console = Console(stderr=True)
    logging.disable(logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if console.is_terminal and not quiet:
            with console.status(f"{doing} …"):
                yield lambda line: console.print(line, highlight=False)
        else:
            yield lambda line: print(line, file=sys.stderr, flush=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console() if sys.stdout.isatty() else Console(width=160)
    shown = Table(*columns, title=title, title_justify="left")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)


@contextmanager
def counted(doing: str, what: str, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """Takes (done, of all): a bar on a terminal, a line now and then elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if quiet or not console.is_terminal:
        told = time.monotonic()

        def tell(done: int, count: int) -> None:
            nonlocal told
            if not quiet and (time.monotonic() - told > 2 or (done == count and count > 1)):
                told = time.monotonic()
                print(f"{doing}: {done:,} of {count:,} {what}", file=sys.stderr, flush=True)

        yield tell
        return
    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(doing)
        yield lambda done, count: bar.update(task, completed=done, total=count)


@contextmanager
def following(doing: str, quiet: bool) -> Iterator[Callable[[object], None]]:
    """Takes what describes itself (`str`): one line that changes on a terminal, a line now and then elsewhere."""
    from rich.console import Console

    console = Console(stderr=True)
    if console.is_terminal and not quiet:
        with console.status(f"{doing} …") as status:
            yield lambda state: status.update(str(state))
        return
    told = time.monotonic()

    def tell(state: object) -> None:
        nonlocal told
        if not quiet and time.monotonic() - told > 5:
            told = time.monotonic()
            print(f"{doing}: {state}", file=sys.stderr, flush=True)

    yield tell
