"""Numbers that somebody else's code gave for records: as many as records, each finite or None."""

import math
from collections.abc import Sequence
from contextlib import suppress
from numbers import Real

import torch

from rlhf.common.errors import TrainingError
from rlhf.rewards.records import ResponseRecord, shortened

_LARGEST = torch.finfo(torch.float32).max


def checked_scores(
    found: object, records: Sequence[ResponseRecord], who: str
) -> list[float | None]:
    """The scores as floats, None where there is none; raises TrainingError.

    It names who gave them, and the record at fault.
    """
    values = _listed(found)
    if values is None:
        raise TrainingError(
            f"{who}: gave {shortened(repr(found))}; expected a list of {len(records)} numbers"
        )
    if len(values) != len(records):
        raise TrainingError(
            f"{who}: gave {len(values)} scores for {len(records)} records, the first of which is "
            f"{records[0]}"
        )
    return [
        None if value is None else checked_score(value, record, who)
        for value, record in zip(values, records, strict=True)
    ]


def checked_score(value: object, record: ResponseRecord, who: str) -> float:
    """One score; raises TrainingError."""
    # numpy's numbers and those of tensors with one element are numbers too
    if hasattr(value, "item") and not isinstance(value, Real):
        # one of several elements is no number
        with suppress(RuntimeError, ValueError):
            value = value.item()
    if not isinstance(value, Real):
        raise TrainingError(f"{who}: gave {shortened(repr(value))} for {record}; expected a number")
    try:
        number = float(value)
    # an integer of hundreds of digits
    except OverflowError:
        number = math.inf
    # sums are float32, in which a larger number is infinite
    if not abs(number) <= _LARGEST:
        raise TrainingError(f"{who}: gave {number} for {record}; expected a finite number")
    return number


def _listed(found: object) -> list[object] | None:
    """What was given as a list; None for what is none, such as text."""
    if hasattr(found, "tolist"):
        found = found.tolist()
    return list(found) if isinstance(found, list | tuple) else None
