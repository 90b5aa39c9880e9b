"""`python:FILE:FUNCTION`: a function of one's own, in a file of one's own in the project.

def score(records: list[ResponseRecord]) -> list[float | None]: ...

It gets a batch of records (`rlhf/rewards/records.py`) and gives as many numbers, None where it cannot tell. A `score_std` on
the function, or in its source's settings, says how far these lie apart; else it is 1.
"""

import copy
import math
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from numbers import Real
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf.common.errors import RlhfError, TrainingError
from rlhf.core.source import ROOT
from rlhf.rewards.answers import checked_scores
from rlhf.rewards.base import RewardContext
from rlhf.rewards.records import ResponseRecord, shortened
from rlhf.settings.rewards import python_place

Function = Callable[[list[ResponseRecord]], Any]

# what a function must not end the stage with: by sys.exit(0) it would pass for done
_FAULTS = (Exception, SystemExit)


class PythonReward:
    """Asks the function for all records at once; what it raises is told with the record at fault."""

    def __init__(self, context: RewardContext, detail: str) -> None:
        """Raises RlhfError where the file cannot be loaded or has no such function."""
        self._who = f"reward python:{detail}"
        self._path = ROOT / python_place(detail)[0]
        self._function = own_function(detail)
        self.score_std = _unit(getattr(self._function, "score_std", 1.0), self._who)

    def scores_of(self, records: Sequence[ResponseRecord]) -> Sequence[float | None]:
        """Finite numbers or None; raises TrainingError."""
        if not records:
            return []
        try:
            # what it does to their messages is no other reward's, nor the next iteration's, to see
            found = self._function(copy.deepcopy(list(records)))
        except _FAULTS as error:
            raise self._told(error, self._at_fault(records)) from error
        return checked_scores(found, records, self._who)

    def _at_fault(self, records: Sequence[ResponseRecord]) -> ResponseRecord | None:
        """The first record that the function fails on by itself."""
        for record in records:
            try:
                self._function([copy.deepcopy(record)])
            except _FAULTS:
                return record
        return None

    def _told(self, error: BaseException, record: ResponseRecord | None) -> TrainingError:
        # the line of the user's own code, the innermost that is not a library's
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if frame.filename == str(self._path)]
        line = f", line {own[-1].lineno}" if own else ""
        where = " on a batch, on no record alone"
        if record is not None:
            where = f" on {record}, {shortened(record.response)!r}"
        return TrainingError(f"{self._who}{line}: {type(error).__name__}: {error}{where}")


def own_function(detail: str) -> Function:
    """The function of `python:FILE:FUNCTION`, the file named from the project's root; raises RlhfError."""
    file, name = python_place(detail)
    return load_function(ROOT / file, name, f"reward python:{detail}")


def load_function(path: Path, name: str, who: str) -> Function:
    """A function by its file, which is run as a module of its own; raises RlhfError."""
    if not path.is_file():
        raise RlhfError(f"{who}: no file {path}; it is named from the project's root")
    try:
        module = _module_of(path)
    except _FAULTS as error:
        raise RlhfError(
            f"{who}: {path} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        # what it imports is no reward
        there = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        found_there = ", ".join(there) or "none"
        raise RlhfError(f"{who}: {path.name} has no function {name}; it has {found_there}")
    found: Function = function
    return found


def _unit(value: object, who: str) -> float:
    """How far the function's scores lie apart, by its own word."""
    if isinstance(value, Real) and 0 < float(value) < math.inf:
        return float(value)
    raise RlhfError(f"{who}: its score_std is {value!r}; expected a number above 0")


def _module_of(path: Path) -> ModuleType:
    # under a name that no import finds, so that it hides no module of its own name
    name = f"reward file {path}"
    spec = spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    # dataclasses look their module up there
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
