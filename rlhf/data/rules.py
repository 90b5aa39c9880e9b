"""What the settings say of how rows are read."""

from dataclasses import dataclass
from typing import Literal

from rlhf.settings.schema import Data


@dataclass(frozen=True)
class Rules:
    """How rows become records; hashable, since files are parsed once under the same rules.

    columns: pairs of a known name and the name that the files have for it
    cleaning: what is cleaned beyond line ends and unusable characters (`rlhf.data.clean`)
    repeated_roles: what becomes of two turns of one role in a row
    class_labels: label columns that name classes in this file, with values of theirs: they are not read
    """

    columns: tuple[tuple[str, str], ...] = ()
    cleaning: frozenset[str] = frozenset()
    repeated_roles: Literal["drop", "join"] = "drop"
    class_labels: tuple[tuple[str, str], ...] = ()


AS_PUBLISHED = Rules()


def rules_of(data: Data) -> Rules:
    """The rules that the section `data` holds."""
    columns = tuple(sorted(data.columns.items()))
    return Rules(columns, frozenset(data.cleaning), data.repeated_roles)
