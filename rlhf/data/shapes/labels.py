"""Values that say whether people wanted an answer, or whether it is to be learnt."""

from typing import Any

# The column that says whether people wanted the answer; the second is LLaMA-Factory's.
LABELS = ("label", "kto_tag")
# Its values, as JSON and as the cells of a table have them.
_GOOD = (
    *("true", "1", "1.0", "+1", "yes", "y"),
    *("desirable", "good", "chosen", "thumbs_up", "thumbs up", "up"),
)
_BAD = (
    *("false", "0", "0.0", "-1", "-1.0", "no", "n"),
    *("undesirable", "bad", "rejected", "thumbs_down", "thumbs down", "down"),
)


def verdict(value: Any) -> bool | None:
    """Whether a label says yes; None where it says neither yes nor no."""
    word = str(value).strip().lower()
    if word in _GOOD:
        return True
    return False if word in _BAD else None
