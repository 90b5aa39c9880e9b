"""Reading the project's own source: which file imports which. Used by the tests of layers and of dvc.yaml."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imported_names(path: Path) -> list[tuple[int, str]]:
    """List (line, dotted name) of every import, local ones too; `from a import b` gives both `a` and `a.b`."""
    found = []
    package = (
        module_name(path).rpartition(".")[0] if path.name != "__init__.py" else module_name(path)
    )
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [
                (node.lineno, base),
                *((node.lineno, f"{base}.{alias.name}") for alias in node.names),
            ]
    return found


def module_name(path: Path) -> str:
    """Give the dotted name of a source file of the project."""
    parts = path.resolve().relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def module_file(name: str) -> Path | None:
    """Give the file of a dotted name, if it is a module of the project."""
    base = ROOT.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def closure(name: str) -> set[Path]:
    """Give every file of the project that importing `name` can run, relative to the root."""
    seen: set[Path] = set()
    waiting = [name]
    while waiting:
        dotted = waiting.pop()
        if "." in dotted:
            waiting.append(dotted.rpartition(".")[0])
        path = module_file(dotted)
        if path is None or path.relative_to(ROOT) in seen:
            continue
        seen.add(path.relative_to(ROOT))
        waiting += [imported for _, imported in imported_names(path)]
    return seen
