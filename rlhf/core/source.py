"""Which source files a stage can run: the closure of its imports, read from the source itself.

Resume checkpoints are keyed by it and DVC watches it: a stage becomes stale when a file
changes that it runs, and by no other.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, resolve_name
from pathlib import Path

from rlhf.common.errors import RlhfError

PACKAGE = "rlhf"
ROOT = Path(__file__).resolve().parents[2]
# by which the file of a user's is told from the name of a module
_FILE = ".py"

# What cannot change a number: reading settings (their values count by themselves), names of files
# and of what can be chosen, writing, progress, messages.
WITHOUT_EFFECT = (
    "rlhf/__init__.py",
    "rlhf/common",
    "rlhf/core/source.py",
    "rlhf/settings",
    "rlhf/ppo/__init__.py",
    "rlhf/registry.py",
    "rlhf/stage.py",
    "rlhf/stages.py",
    "rlhf/workspace.py",
)


def closure(modules: Iterable[str]) -> list[Path]:
    """Every file that running `modules` can execute and that can change a number.

    One that ends with .py is a file of the user's, by its path in the project; of what such a file
    imports, what lies in the project counts. Of the others the package's own files count, and those of
    any other package that one of `modules` lies in. Imports within functions count, those for type
    checkers alone do not. A name that a registry holds is text, not an import: whoever chooses from
    one passes the module along. Paths are relative to the project where they lie in it, sorted.
    Raises RlhfError for a module or a file that is not there.
    """
    modules = list(modules)
    own = [name for name in modules if name.endswith(_FILE)]
    waiting = [name for name in modules if not name.endswith(_FILE)]
    for name in waiting:
        if file_of(name) is None:
            raise RlhfError(
                f"{name}: no source file of that module is found; "
                "a line of rlhf/registry.py names code below rlhf/, as module:name"
            )
    followed = {PACKAGE, *map(_top, waiting)}
    seen: set[str] = set()
    files: set[Path] = set()
    for name in own:
        files.add(_own_file(name))
        imports = [one for one in imported_names(ROOT / name) if _lies_in_project(one)]
        followed.update(map(_top, imports))
        waiting += imports
    while waiting:
        name = waiting.pop()
        if name in seen or _top(name) not in followed:
            continue
        seen.add(name)
        # importing a.b runs a first, which may be a facade that has b from elsewhere
        package, _, last = name.rpartition(".")
        if package:
            waiting += [package, *_behind(package, last)]
        path = file_of(name)
        if path is not None:
            files.add(path)
            waiting += _absolute(imported_names(path), name, path)
    return sorted(_in_project(path) for path in files if _counts(path))


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
    # dvc.yaml lists code by folders of links
    paths = [ROOT / entry for entry in listed]
    targets = {link.resolve() for path in paths if path.is_dir() for link in path.iterdir()}
    covered = {*paths, *targets}
    return [
        path for path in closure(modules) if not covered & {ROOT / path, *(ROOT / path).parents}
    ]


def links_to_nothing(listed: Iterable[str]) -> list[Path]:
    """The links in the `listed` folders of the project whose file is gone: DVC would fail on them."""
    folders = [ROOT / entry for entry in listed if (ROOT / entry).is_dir()]
    links = [path for folder in folders for path in folder.iterdir() if path.is_symlink()]
    return sorted(_in_project(path) for path in links if not path.exists())


def file_of(name: str) -> Path | None:
    """The source file of a dotted name, if it is a module or package; nothing is imported for it."""
    folder = _folder_of(_top(name))
    if folder is None:
        return None
    base = folder.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def imported_names(path: Path) -> tuple[str, ...]:
    """Dotted names that a file imports.

    `from a import b` gives `a` and `a.b`. A name that is bound to a whole module gives `a.*` too: all
    that the module has may be used. A relative import begins with its dots.
    """
    return _read(path, path.stat().st_mtime_ns).imports


def _own_file(name: str) -> Path:
    path = ROOT / name
    if not path.is_file():
        raise RlhfError(f"{name}: no such file in the project; ppo.rewards names it")
    return path


# -- names -----------------------------------------------------------------------------------------


def _top(name: str) -> str:
    return name.partition(".")[0]


def _lies_in_project(name: str) -> bool:
    """Whether what a user's file imports is a module at the project's root, not one that is installed."""
    return not name.startswith(".") and _folder_of(_top(name)) == ROOT


def _folder_of(top: str) -> Path | None:
    """The folder that a top-level package or module lies in."""
    if top == PACKAGE:
        return ROOT
    spec = find_spec(top) if top else None
    if spec is None:
        return None
    places = spec.submodule_search_locations or [spec.origin or ""]
    return Path(places[0]).parent


def _behind(package: str, name: str) -> list[str]:
    """The modules that a facade imports when it is asked for a name; `*` asks for every one."""
    path = file_of(package)
    if path is None or path.name != "__init__.py":
        return []
    places = _read(path, path.stat().st_mtime_ns).places
    if name == "*":
        return [f"{package}.{place}" for place in places.values()]
    return [f"{package}.{places[name]}"] if name in places else []


def _absolute(names: Iterable[str], module: str, path: Path) -> list[str]:
    """Imported names, those that are relative to `module` made absolute."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    return [resolve_name(name, package) if name.startswith(".") else name for name in names]


# -- reading source --------------------------------------------------------------------------------


# how a facade says which of its modules has a name: name -> module
_PLACES = "_PLACES"


@dataclass(frozen=True)
class _Source:
    """What a file imports, what it gives by name as a facade, and whether it is more than a docstring."""

    imports: tuple[str, ...]
    places: Mapping[str, str]
    has_code: bool


@cache
def _read(path: Path, _modified: int) -> _Source:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imports = tuple(name for node in _executed(tree) for name in _names(node))
    has_docstring = ast.get_docstring(tree) is not None
    return _Source(imports, _places(tree), has_code=len(tree.body) > int(has_docstring))


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from (alias.name, f"{alias.name}.*")
    elif isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        yield module
        start = f"{module}." if node.module else module
        for alias in node.names:
            yield from (f"{start}{alias.name}", f"{start}{alias.name}.*")


def _places(tree: ast.Module) -> Mapping[str, str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == _PLACES:
            places: Mapping[str, str] = ast.literal_eval(node.value)
            return places
    return {}


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
    name = _in_project(path)
    if any(name == Path(entry) or Path(entry) in name.parents for entry in WITHOUT_EFFECT):
        return False
    return _read(path, path.stat().st_mtime_ns).has_code


def _in_project(path: Path) -> Path:
    """The path relative to the project, where it lies in it."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
