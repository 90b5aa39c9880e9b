"""Reading the project's own source: which file imports which."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def imported_names(path: Path) -> list[tuple[int, str]]:
    """List (line, dotted name) of every import, local ones too.

    `from a import b` gives both `a` and `a.b`.
    """
    names: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports of the project are absolute"
            names.append((node.lineno, str(node.module)))
            names += [(node.lineno, f"{node.module}.{alias.name}") for alias in node.names]
    return names


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
