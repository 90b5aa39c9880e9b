"""The right answer to a prompt, where its row has one under `reference`."""

import math
from typing import Any

from rlhf.data.rows import BrokenRow


def read_reference(value: Any) -> str | None:
    """The column `reference` of a row as text, a number spelt; None where there is none.

    It is kept as it was written; of a list, one for each turn as in MT-Bench, the first. Raises
    BrokenRow for what is neither text nor a finite number.
    """
    if isinstance(value, list):
        value = value[0] if value else None
    if value is None:
        return None
    if isinstance(value, str):
        # an empty cell of a table
        return value if value.strip() else None
    # true is no 1
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value):
        return str(value)
    raise BrokenRow("reference_is_no_text_or_number")
