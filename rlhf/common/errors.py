"""Errors meant for the user: each names the file, line or key at fault, and what is right."""

from pathlib import Path
from typing import Any


class RlhfError(Exception):
    """A fault of input, settings or machine, told in one message.

    The command line prints it without a traceback.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        # Unpickling an exception calls its class with the message alone, which a class that makes
        # its message from more refuses: raised in a process of a pool, such a fault would arrive
        # as that of a broken pool.
        return _unpickled, (type(self), self.args), self.__dict__ or None


def _unpickled(kind: type[RlhfError], args: tuple[Any, ...]) -> RlhfError:
    """Make a fault again without asking its `__init__`; its attributes follow."""
    return kind.__new__(kind, *args)


class SettingsError(RlhfError):
    """A setting is missing, unknown or impossible; the message says which and what is allowed."""


class DataError(RlhfError):
    """A data file cannot be used; the message carries file and, where known, line (counted from 1)."""

    def __init__(self, path: Path | str, problem: str, line: int | None = None) -> None:
        where = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{where}: {problem}")


class ModelError(RlhfError):
    """A model directory is missing, incomplete or not what it claims to be."""


class SourceError(RlhfError):
    """A source address cannot be read or what it brought is not what was pinned."""


class ChangedError(RlhfError):
    """What a stage reads was changed while it ran."""


class TrainingError(RlhfError):
    """Training cannot go on, say a loss is not finite; the message names step and evidence."""


class JudgeError(RlhfError):
    """A judge cannot be asked, or gave no answer; what it judged before is kept."""
