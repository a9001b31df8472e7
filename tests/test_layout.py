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


def test_no_cycles_and_short_chains() -> None:
    graph = {module_of(path): imports(path, top_level=True) - {module_of(path)} for path in FILES}

    def depth(name: str, seen: tuple[str, ...] = ()) -> int:
        assert name not in seen, f"cycle: {' -> '.join([*seen, name])}"
        return 1 + max((depth(other, (*seen, name)) for other in graph[name] if other not in PACKAGES), default=0)

    assert max(depth(name) for name in graph) <= 11


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
