"""YAML as DVC reads it: one library, one reading (YAML 1.2), so what DVC hashes is what we use."""

import re
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.representer import RoundTripRepresenter

from rlhf.common.errors import SettingsError

_NEVER_FOLD = 4096
# values, tags and aliases stand in quotes; so do the parser's own words, as in '<scalar>' and ',',
# which may stay
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_PARSERS_WORD = re.compile(r"'(<.*|.)'")


def parse_yaml(text: str, where: str) -> Any:
    """Read plain values from YAML; a key that stands twice is refused, the last would win unseen.

    Raises SettingsError with the place but without values: one may be a secret, put there by
    mistake.
    """
    try:
        return YAML(typ="safe").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"{where}:{mark.line + 1}:{mark.column + 1}" if mark else where
        raise SettingsError(f"{place}: not readable as YAML: {_problem(error)}") from None
    except YAMLError as error:
        # of the reader: a position, and a character that YAML cannot have
        raise SettingsError(f"{where}: not readable as YAML: {error}") from None
    except (ValueError, LookupError, AttributeError):
        # what the parser itself does not catch
        problem = "a date, number or truth value that cannot be"
        raise SettingsError(f"{where}: not readable as YAML: {problem}") from None


def read_yaml(path: Path) -> Any:
    """Read a YAML file; raises FileNotFoundError, and SettingsError that names it."""
    return parse_yaml(path.read_text(encoding="utf-8"), str(path))


def _problem(error: MarkedYAMLError) -> str:
    text = str(error.problem or error.context or "")
    if isinstance(error, DuplicateKeyError):
        key = re.search(r'duplicate key "([^"]*)"', text)
        return f"{key[1] if key else 'a key'}: a second time"
    return _QUOTED.sub(_without_value, text)


def _without_value(quoted: re.Match[str]) -> str:
    return quoted[0] if _PARSERS_WORD.fullmatch(quoted[0]) else "'...'"


def write_yaml(content: Any) -> str:
    """Plain values as YAML text, mappings in their order, nothing folded."""
    return _dumped(YAML(typ="rt"), content)


def editable(text: str) -> Any:
    """Read YAML for a change: the document keeps comments, order and quotes; `edited_text` writes it."""
    return _editor().load(text)


def edited_text(document: Any) -> str:
    """The text of a document that `editable` gave."""
    return _dumped(_editor(), document)


def _editor() -> YAML:
    editor = YAML()
    editor.preserve_quotes = True
    return editor


def _dumped(yaml: YAML, content: Any) -> str:
    yaml.width = _NEVER_FOLD
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.Representer = _WithNull
    out = StringIO()
    yaml.dump(content, out)
    return out.getvalue()


class _WithNull(RoundTripRepresenter):
    """Writes `null`, where an empty place would stand for it; the library's own class is DVC's too."""

    def represent_none(self, _value: None) -> Any:
        return self.represent_scalar("tag:yaml.org,2002:null", "null")


_WithNull.add_representer(type(None), _WithNull.represent_none)
