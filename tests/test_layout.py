"""The shape of the tree: imports point one way, without cycles; the published names are there."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("mobileclip", "export", "benchmarks")
ALLOWED = {"mobileclip": {"mobileclip"}, "export": {"export", "mobileclip"}, "benchmarks": set(PACKAGES)}
COMMAND = ("mobileclip.cli", "mobileclip.verbs")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules of this project that a file imports (type checking apart)."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    known = {module_of(file) for file in FILES}
    return {name for name in found if name in known}


@pytest.mark.parametrize("path", FILES, ids=module_of)
def test_imports_point_one_way(path: Path) -> None:
    if module_of(path).startswith(COMMAND):
        return  # the composition root
    package = module_of(path).split(".")[0]
    assert {name.split(".")[0] for name in imports(path)} <= ALLOWED[package]
    assert not any(name.startswith(COMMAND) for name in imports(path))


def chains() -> dict[str, tuple[str, ...]]:
    """Module -> the longest chain of imports, at module level, that begins at it."""
    graph = {module_of(path): imports(path, top_level=True) - {module_of(path)} for path in FILES}
    found: dict[str, tuple[str, ...]] = {}

    def chain(name: str, above: tuple[str, ...] = ()) -> tuple[str, ...]:
        assert name not in above, f"cycle: {' -> '.join([*above, name])}"
        if name not in found:
            below = (chain(other, (*above, name)) for other in sorted(graph[name]) if other not in PACKAGES)
            found[name] = (name, *max(below, key=len, default=()))
        return found[name]

    for name in sorted(graph):
        chain(name)
    return found


def functions(path: Path) -> list[tuple[int, str, bool]]:
    """(lines without the docstring, name, whether all of it has hints) of each function of a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        first = node.body[0]
        told = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and ast.get_docstring(node)
        said = (first.end_lineno or 0) - first.lineno + 1 if told else 0
        args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        hinted = all(arg is None or arg.annotation or arg.arg in ("self", "cls") for arg in args)
        lines = (node.end_lineno or 0) - node.lineno + 1 - said
        found.append((lines, f"{path.relative_to(ROOT)}:{node.name}", hinted and node.returns is not None))
    return found


LONG = {
    "export/mil_ops.py": "a table of operators, one function each",
    "export/mil_layers.py": "a table of operators, one function each",
}
"""Files beyond the limit, and why they are read well all the same."""


def test_one_person_can_hold_it(capsys: pytest.CaptureFixture[str]) -> None:
    """style.md's figures: chains of 8, no cycles, files of about 400 lines, functions of about 60, hints everywhere."""
    longest = max(chains().values(), key=len)
    files = sorted(((len(path.read_text().splitlines()), str(path.relative_to(ROOT))) for path in FILES), reverse=True)
    found = sorted((one for path in FILES for one in functions(path)), reverse=True)
    tests = sum(len(path.read_text().splitlines()) for path in (ROOT / "tests").rglob("*.py"))
    lines = sum(count for count, _ in files)
    hinted = sum(ok for *_, ok in found)
    with capsys.disabled():
        print(f"\n{len(FILES)} files, {lines:,} lines, {len(found):,} functions; {tests / lines:.2f} of tests a line")
        print(f"longest import chain, {len(longest)}: {' -> '.join(longest)}")
        print(f"longest files: {', '.join(f'{name} {count}' for count, name in files[:5])}")
        print(f"longest functions, without docstrings: {', '.join(f'{name} {count}' for count, name, _ in found[:3])}")
        print(f"complete hints: {hinted:,} of {len(found):,}")
    assert len(longest) <= 8, longest
    assert {name for count, name in files if count > 480} == set(LONG)
    assert found[0][0] <= 60, found[0]
    assert hinted == len(found), [name for _, name, ok in found if not ok]


def test_every_package_is_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    there = {module_of(path) for path in FILES if path.name == "__init__.py"}
    assert set(project["tool"]["setuptools"]["packages"]) == there


def test_nothing_untrusted_is_unpickled() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                assert "weights_only=True" in ast.unparse(node), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
                assert "allow_pickle=False" in ast.unparse(node), path


def test_published_names() -> None:
    import benchmarks
    import export
    import mobileclip

    for package in (mobileclip, export, benchmarks):
        for name in package.__all__:
            assert getattr(package, name) is not None
    assert callable(mobileclip.fuse)
    import mobileclip.fuse as module  # a submodule of the same name does not take the function's place

    assert callable(mobileclip.fuse)
    assert module is not None
    with pytest.raises(AttributeError, match="module 'export' has no attribute 'nothing'"):
        _ = export.nothing
