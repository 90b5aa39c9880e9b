"""A stage's summary: flat JSON, finite numbers only."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.common.errors import TrainingError
from rlhf.common.files import write_json

Value = float | int | bool | str | None


def finite(values: Mapping[str, Value], where: str) -> dict[str, Value]:
    """Give the values back; raises TrainingError that names `where` and each key not finite."""
    bad = sorted(
        key
        for key, value in values.items()
        if isinstance(value, float) and not math.isfinite(value)
    )
    if bad:
        raise TrainingError(f"{where}: not finite: {', '.join(bad)}")
    return dict(values)


def write_summary(path: Path, values: Mapping[str, Any]) -> None:
    """Write a stage's flat summary; raises TrainingError naming the keys that are not finite."""
    write_json(path, finite(values, str(path)))
