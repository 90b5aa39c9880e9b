"""The examples of the folders' README files, run as they stand."""

import re
import sys
import types
from pathlib import Path

from tests.source_tree import ROOT

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_REGISTRY_LINE = re.compile(r'^\s*"(?P<name>[\w-]+)": "(?P<place>[\w.]+:\w+)",$')


def python_blocks(readme: str) -> list[str]:
    """The Python blocks of a README, by its path in the project."""
    return _BLOCK.findall((ROOT / readme).read_text(encoding="utf-8"))


def registry_line(block: str) -> tuple[str, str]:
    """Name and place of a block that is one line of the registry."""
    match = _REGISTRY_LINE.match(block.rstrip())
    assert match is not None, block
    return match["name"], match["place"]


def install(name: str, source: str, folder: Path) -> types.ModuleType:
    """Make a module of the project out of an example, without touching the project's folders."""
    path = folder / f"{name.rpartition('.')[2]}.py"
    path.write_text(source, encoding="utf-8")
    module = types.ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module
    exec(compile(source, str(path), "exec"), module.__dict__)
    return module
