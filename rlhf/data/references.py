"""The right answer to a prompt, where its row has one under `reference`."""

import math
from typing import Any

from rlhf.data.rows import BrokenRow


def read_reference(value: Any) -> str | None:
    """The column `reference` of a row as text, a number spelt; None where there is none.

    It is kept as it was written. Raises BrokenRow for what is neither text nor a finite number, and
    for text without a word.
    """
    if value is None:
        return None
    if isinstance(value, str) and value.strip():
        return value
    # true is no 1
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value):
        return str(value)
    raise BrokenRow("reference_is_no_text_or_number")
