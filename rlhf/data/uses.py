"""The uses of data, and where the files of each lie: what `fetch` writes and `prepare` reads."""

from pathlib import Path

from rlhf.settings import Settings

# The lists of addresses in the section `data`, in the order in which they are fetched.
USES = ("sft", "preferences", "prompts", "evaluation", "pretrain", "steps")


def addresses(settings: Settings, use: str) -> tuple[str, ...]:
    """The source addresses of one use, in the order of their index."""
    listed: tuple[str, ...] = getattr(settings.data, use)
    return listed


def raw_directory(raw: Path, use: str, index: int) -> Path:
    """Where the files of one address lie below `raw`, the directory of all raw data."""
    return raw / use / str(index)
