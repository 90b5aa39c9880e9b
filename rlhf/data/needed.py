"""The splits without which a later stage stops."""

from collections.abc import Mapping

NEEDED_SPLITS: Mapping[str, tuple[str, ...]] = {
    "sft": ("train", "validation"),
    "preferences": ("train", "gold", "validation", "test"),
    "prompts": ("train", "validation", "test"),
    "pretrain": ("train", "validation"),
    "steps": ("train", "validation", "test"),
}
_ADVICE = {
    "train": "more rows, or smaller data.test_fraction and data.validation_fraction, leave some",
    "validation": "more rows, a file validation.jsonl or a larger data.validation_fraction give some",
    "test": "data.evaluation, a file test.jsonl or a larger data.test_fraction give some",
    "gold": "more rows or a larger data.gold_fraction give some",
}


def no_rows_left(split: str) -> str:
    """That a needed split is empty, and what gives it rows."""
    return f"no rows left for {split}; {_ADVICE[split]}"
