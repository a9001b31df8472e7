"""Versions of everything that a result depends on, and combinations that are known not to work (`RULES`).

    mobileclip --version [--json]

All is read from the metadata of installed packages: nothing of them is imported, so the answer comes at once and also
where an import would fail. What this version was tested with is not written here: it is what pyproject.toml asks for,
as the installed package tells it. `--version` ends with exit code 2 where a rule is broken, so that a script can ask;
verbs that would run into it refuse at their start (`require`).
"""

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import InvalidVersion, Version

from mobileclip import __version__
from mobileclip.errors import MobileClipError

PROJECT = "mobileclip-toolkit"
_CONVERT = frozenset({"build", "bench", "export", "sensitivity", "verify"})
_MODELS = _CONVERT | {"evaluate", "finetune", "predict", "train"}


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One combination that does not work."""

    package: str
    """What has to change."""
    allowed: str
    """Versions of it that work."""
    beside: str = ""
    """Package that it has to go with; empty: this project itself."""
    only: str = ""
    """Versions of `beside` of which this is known; empty: all."""
    why: str
    """What happens otherwise, and where that is known from."""
    verbs: frozenset[str] = _CONVERT
    """Verbs that would run into it."""

    def broken(self, installed: Mapping[str, str]) -> str:
        """A sentence with what to do where `installed` (name -> version) breaks the rule, else nothing."""
        found, other = installed.get(self.package), installed.get(self.beside, __version__)
        if found is None or (self.beside and self.beside not in installed):
            return ""
        if within(found, self.allowed) or not within(other, self.only):
            return ""
        return (
            f"{self.package} {found} does not go with {self.beside or 'mobileclip'} {other}: {self.why}; "
            f"run `pip install '{self.package}{self.allowed}'`."
        )


RULES = (
    Rule(
        package="numpy",
        allowed="<2.4",
        beside="coremltools",
        only="<=9.0",
        why="its conversion calls int() on arrays of one element, which numpy 2.4 refuses (coremltools issue 2633)",
    ),
    Rule(
        package="numpy",
        allowed=">=2,<2.4",
        beside="executorch",
        only="==1.5.*",
        why="ExecuTorch 1.5 is built for numpy 2, and the coremltools that it needs for less than 2.4",
    ),
    Rule(
        package="torchao",
        allowed="==0.18.*",
        beside="executorch",
        only="==1.5.*",
        why="its quantisers are written for the PT2E of torchao 0.18 (ExecuTorch 1.5.1's own requirement)",
    ),
    Rule(
        package="coremltools",
        allowed="==9.0",
        beside="executorch",
        only="==1.5.*",
        why="its Core ML delegate is written for coremltools 9.0 (ExecuTorch 1.5.1's own requirement)",
    ),
    Rule(
        package="torch",
        allowed="==2.14.*",
        why="graphs of torch.export and converters change with every release, and these were verified with 2.14",
    ),
    Rule(
        package="torchvision",
        allowed="==0.29.*",
        beside="torch",
        only="==2.14.*",
        why="its operators are compiled for one release of torch, 0.29 for 2.14, and fail to register with another",
        verbs=_MODELS,
    ),
    Rule(
        package="timm",
        allowed="==1.0.31",
        why="fusing reads the parts of its towers by name, which other releases call otherwise",
        verbs=_MODELS,
    ),
    Rule(
        package="open_clip_torch",
        allowed="==3.3.0",
        why="names and configurations of published weights are those of 3.3.0",
        verbs=_MODELS,
    ),
    Rule(
        package="executorch",
        allowed="==1.5.*",
        why="delegates and operators outside of them are told from the graphs of 1.5, and apps run its runtime",
    ),
)
"""Every known-bad combination, each with what to do."""


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One package that this project uses."""

    name: str
    """As it is installed."""
    found: str | None
    """Its version; None: not installed."""
    tested: str
    """Versions that this version was tested with; empty: any."""
    extra: str = ""
    """Optional part of the project that wants it; empty: all need it."""

    @property
    def untested(self) -> bool:
        """Whether it is there in another version than was tested."""
        return self.found is not None and not within(self.found, self.tested)


def within(found: str, allowed: str) -> bool:
    """Whether a version is one of `allowed`; builds before a release and local builds count as the release."""
    try:
        return SpecifierSet(allowed).contains(Version(found).base_version)
    except InvalidVersion:
        return False


def tools() -> tuple[Tool, ...]:
    """What pyproject.toml asks for, and what is there; of optional parts those that are there."""
    try:
        asked = [Requirement(line) for line in requires(PROJECT) or ()]
    except PackageNotFoundError:  # a source tree on the path that was not installed
        asked = [Requirement(name) for name in dict.fromkeys(rule.package for rule in RULES)]
    found: dict[str, Tool] = {}
    for item in asked:
        extra = "" if item.marker is None else _extra(item)
        if extra is None or extra == "dev" or item.name == PROJECT:
            continue
        there = _version(item.name)
        if not extra or there is not None:
            found[item.name] = Tool(name=item.name, found=there, tested=str(item.specifier), extra=extra)
    return tuple(found.values())


def _extra(item: Requirement) -> str | None:
    """Optional part that a requirement belongs to; empty: none; None: not one for this Python or system."""
    assert item.marker is not None
    if item.marker.evaluate({"extra": ""}):
        return ""
    words = str(item.marker).replace("'", '"').split('extra == "')
    return words[1].partition('"')[0] if len(words) > 1 else None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def problems(verb: str | None = None) -> list[str]:
    """A sentence for every rule that is broken here, of one verb or of all."""
    rules = [rule for rule in RULES if verb is None or verb in rule.verbs]
    names = {name for rule in rules for name in (rule.package, rule.beside) if name}
    installed = {name: there for name in names if (there := _version(name)) is not None}
    return [text for rule in rules if (text := rule.broken(installed))]


def require(verb: str) -> None:
    """Refuse at once what would end in a traceback deep inside of a foreign package.

    Raises:
        MobileClipError: a combination of versions that is known not to work.
    """
    if found := problems(verb):
        raise MobileClipError(" ".join(found))


def main(*, as_json: bool) -> int:
    """Print versions and problems; 2 where a rule is broken."""
    there, broken = tools(), problems()
    system = f"{platform.system()} {platform.machine()}"
    if as_json:
        told = {
            "mobileclip": __version__,
            "python": platform.python_version(),
            "system": system,
            "tools": [asdict(tool) | {"untested": tool.untested} for tool in there],
            "problems": broken,
        }
        print(json.dumps(told, indent=2))
        return 2 if broken else 0
    lines = [f"mobileclip {__version__}", f"python {platform.python_version()} ({system})"]
    for tool in there:
        note = f"  (tested with {tool.tested})" if tool.untested else ""
        lines.append(f"{tool.name} {tool.found or 'is not installed'}{note}")
    print("\n".join(lines))
    for sentence in broken:
        print(f"problem: {sentence}", file=sys.stderr)
    return 2 if broken else 0
