"""Which source files a stage can run: the closure of its imports, read from the source itself.

Resume checkpoints are keyed by it and `dvc.yaml` lists it: a stage becomes stale when a file
changes that it runs, and by no other.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "rlhf"
ROOT = Path(__file__).resolve().parents[2]

# What cannot change a number: reading settings (their values count by themselves), names of files
# and of what can be chosen, writing, progress, messages.
WITHOUT_EFFECT = (
    "rlhf/__init__.py",
    "rlhf/common",
    "rlhf/core/source.py",
    "rlhf/settings",
    "rlhf/ppo/__init__.py",
    "rlhf/registry.py",
    "rlhf/stages.py",
    "rlhf/workspace.py",
)


def closure(modules: Iterable[str]) -> list[Path]:
    """Every file of the package that running `modules` can execute and that can change a number.

    Imports within functions count, those for type checkers alone do not. A name that a registry
    holds is text, not an import: whoever chooses from one passes the module along. Paths are
    relative to the project, sorted.
    """
    seen: set[Path] = set()
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        # importing a.b runs a first
        if "." in name:
            waiting.append(name.rpartition(".")[0])
        path = file_of(name)
        if path is None or path in seen:
            continue
        seen.add(path)
        waiting += imported_names(path)
    return sorted(path.relative_to(ROOT) for path in seen if _counts(path))


def code_sha256(modules: Iterable[str]) -> str:
    """Hash the names and contents of a closure (hex)."""
    digest = hashlib.sha256()
    for path in closure(modules):
        digest.update(path.as_posix().encode() + b"\0" + (ROOT / path).read_bytes())
    return digest.hexdigest()


def unwatched(modules: Iterable[str], listed: Iterable[str]) -> list[Path]:
    """The files of a closure that none of the `listed` paths of the project covers.

    A path is that of a file, of a folder, or of a folder of links to files.
    """
    # dvc.yaml lists an algorithm by a folder of links
    paths = [ROOT / entry for entry in listed]
    targets = {link.resolve() for path in paths if path.is_dir() for link in path.iterdir()}
    covered = {*paths, *targets}
    return [
        path for path in closure(modules) if not covered & {ROOT / path, *(ROOT / path).parents}
    ]


def file_of(name: str) -> Path | None:
    """The file of a dotted name, if it is a module or package of ours."""
    if name.partition(".")[0] != PACKAGE:
        return None
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imported_names(path: Path) -> tuple[str, ...]:
    """Dotted names that a file imports; `from a import b` gives both `a` and `a.b`."""
    return _read(path, path.stat().st_mtime_ns).imports


# -- reading source --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Source:
    """What a file imports, and whether it holds more than its docstring."""

    imports: tuple[str, ...]
    has_code: bool


@cache
def _read(path: Path, _modified: int) -> _Source:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = tuple(name for node in _executed(tree) for name in _names(node))
    return _Source(imports, len(tree.body) > 1)


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield alias.name
    elif isinstance(node, ast.ImportFrom):
        # imports of this project are absolute: ruff's TID252 sees to it
        yield node.module or ""
        for alias in node.names:
            yield f"{node.module}.{alias.name}"


def _executed(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those under `if TYPE_CHECKING:`."""
    yield node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_type_checking(child.test):
            for other in child.orelse:
                yield from _executed(other)
        else:
            yield from _executed(child)


def _is_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"


def _counts(path: Path) -> bool:
    """Whether a file holds more than its docstring and can change a number."""
    name = path.relative_to(ROOT)
    if any(name == Path(entry) or Path(entry) in name.parents for entry in WITHOUT_EFFECT):
        return False
    return _read(path, path.stat().st_mtime_ns).has_code
