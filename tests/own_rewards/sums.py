"""Rewards of a user's own, as `python:FILE:FUNCTION` names them, for the tests."""

import math

import numpy as np
import torch

from rlhf.rewards.records import ResponseRecord
from tests.own_rewards import helpers


def words(records: list[ResponseRecord]) -> list[float]:
    """The number of words, and a half where the response ended by itself."""
    return [helpers.count(one.response) + 0.5 * one.finished for one in records]


words.score_std = 4.0  # type: ignore[attr-defined]


def as_array(records: list[ResponseRecord]) -> np.ndarray:
    return np.arange(len(records))


def as_numbers_of_other_libraries(records: list[ResponseRecord]) -> list[object]:
    return [np.float32(1.5), torch.tensor(2), 3][: len(records)]


def one_fewer(records: list[ResponseRecord]) -> list[float]:
    return [1.0] * (len(records) - 1)


def nothing(records: list[ResponseRecord]) -> None:
    return None


def some_text(records: list[ResponseRecord]) -> list[object]:
    return [1.0, "2.0", 3.0]


def not_a_number(records: list[ResponseRecord]) -> list[float]:
    return [1.0, 2.0, math.nan]


def too_large(records: list[ResponseRecord]) -> list[float]:
    return [1.0, math.inf, 2.0]


def cannot_tell_of_two(records: list[ResponseRecord]) -> list[float | None]:
    return [1.0, None, None][: len(records)]


def without_unit(records: list[ResponseRecord]) -> list[float]:
    return [0.0] * len(records)


without_unit.score_std = 0  # type: ignore[attr-defined]


def gives_up(records: list[ResponseRecord]) -> list[float]:
    raise SystemExit(0)


def fails_on_w15(records: list[ResponseRecord]) -> list[float]:
    return [1 / ("w15" not in one.response) for one in records]


def fails_on_many(records: list[ResponseRecord]) -> list[float]:
    if len(records) > 1:
        raise RuntimeError("too many")
    return [0.0]


NO_FUNCTION = 3


def appends_to_messages(records: list[ResponseRecord]) -> list[float]:
    for record in records:
        record.messages.append({"role": "assistant", "content": record.response})
    return [float(len(record.messages)) for record in records]


def appends_and_fails(records: list[ResponseRecord]) -> list[float]:
    appends_to_messages(records)
    raise ValueError("after it")
