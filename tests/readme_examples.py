"""The examples of the folders' README files, run as they stand."""

import re
import types
from pathlib import Path
from sys import modules

import pytest

from rlhf.core import source as project_source
from tests.source_tree import ROOT

_BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_REGISTRY_LINE = re.compile(r'^\s*"(?P<name>[\w-]+)": "(?P<place>[\w.]+:\w+)",$')


def python_blocks(readme: str) -> list[str]:
    """The Python blocks of a README, by its path in the project."""
    return _BLOCK.findall((ROOT / readme).read_text(encoding="utf-8"))


def register(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, str], source: str, line: str, folder: Path
) -> str:
    """Do what a README asks for, one file and one line, for the length of a test; gives the name.

    The file lies in `folder`, and is imported as if it lay in the project.
    """
    match = _REGISTRY_LINE.match(line.rstrip())
    assert match is not None, line
    name, place = match["name"], match["place"]
    path = module_of(monkeypatch, place.partition(":")[0], source, folder)
    assert path.is_file()
    monkeypatch.setitem(table, name, place)
    return name


def module_of(monkeypatch: pytest.MonkeyPatch, name: str, source: str, folder: Path) -> Path:
    """Make a module of the project out of an example; gives the file that it lies in."""
    path = folder / f"{name.rpartition('.')[2]}.py"
    path.write_text(source, encoding="utf-8")
    module = types.ModuleType(name)
    module.__file__ = str(path)
    monkeypatch.setitem(modules, name, module)
    file_of = project_source.file_of
    monkeypatch.setattr(
        project_source, "file_of", lambda other: path if other == name else file_of(other)
    )
    exec(compile(source, str(path), "exec"), module.__dict__)
    return path
