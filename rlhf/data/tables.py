"""The names in the prepared tables: their splits, and the kinds of rows."""

from collections.abc import Mapping

SPLITS: Mapping[str, tuple[str, ...]] = {
    "sft": ("train", "validation", "test"),
    # gold: pairs for the gold model alone
    "preferences": ("train", "gold", "validation", "test"),
    "prompts": ("train", "validation", "test"),
    "pretrain": ("train", "validation"),
    "steps": ("train", "validation", "test"),
}
# tables without rows where the settings name no source for them
OPTIONAL_TABLES = ("steps",)
KINDS = ("helpful", "harmless", "other", "plain")
