"""How far back a model looks: what of a pair of answers may lie in one row, and what fits at all."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedConfig

from rlhf.common.errors import ModelError

# what `fetch` writes into config.json, where its proof found that a model cannot read pairs in one row
PAIR_ROWS = "pair_rows"
# the settings of a configuration that name a window: most families; Llama 4; GPT-Neo
_WINDOWS = ("sliding_window", "attention_chunk_size", "window_size")
_FULL = {"full_attention", "global"}


def is_one_row(config: PreTrainedConfig, longest: int) -> bool:
    """Whether pairs, whose longest prompt and answer have so many tokens, may lie in one row each.

    The mask of pairs shows an answer all that stands before it, which a window would not.
    """
    reach = window(config)
    return bool(getattr(config, PAIR_ROWS, True)) and (reach is None or longest <= reach)


def window(config: PreTrainedConfig) -> int | None:
    """The tokens that the most short-sighted layer sees, itself included; None: all before it."""
    text = config.get_text_config()
    types = getattr(text, "layer_types", None) or getattr(text, "attention_layers", None)
    if types is not None and set(types) <= _FULL:
        return None
    if getattr(text, "use_sliding_window", True) is False:
        return None
    # 0 is none, as transformers reads it
    sizes = [size for name in _WINDOWS if (size := getattr(text, name, None))]
    return min(sizes, default=None)


def longest_text(config: PreTrainedConfig) -> int | None:
    """The tokens that the model reads as it should, prompt and answer together; None: any number."""
    return min(_limits(config), default=None)


def check_window(config: PreTrainedConfig, lengths: Mapping[str, int]) -> None:
    """Refuse texts that would run on behind the last place that a model knows.

    lengths: tokens by the settings that they come from. Raises ModelError that names the settings.
    """
    limits = _limits(config)
    longest = min(limits, default=None)
    for settings, length in lengths.items():
        if longest is not None and length > longest:
            raise ModelError(f"{settings}: {length} tokens are more than {limits[longest]}")


def _limits(config: PreTrainedConfig) -> dict[int, str]:
    """What bounds a text, by the tokens that it allows for."""
    text = config.get_text_config()
    limits: dict[int, str] = {}
    length = getattr(text, "max_position_embeddings", None)
    # positions by distance alone (ALiBi) have no end
    endless = getattr(text, "alibi", False) or text.model_type in ("bloom", "mpt")
    # -1 is XLNet's word for none
    if length and length > 0 and not endless:
        limits[int(length)] = f"the model's window of {length}"
    for rope in _ropes(text):
        switch = rope.get("original_max_position_embeddings")
        if rope.get("rope_type") == "longrope" and switch:
            limits[int(switch)] = (
                f"the {switch} that LongRope reads with its short factors: one longer text would "
                "change what the model says of every other text of its batch"
            )
    # Doge
    if kept := getattr(text, "keep_window_size", None):
        limits[int(kept)] = (
            f"the {kept} that the model keeps (keep_window_size): what it drops of a longer text "
            "is not the same in every batch"
        )
    return limits


def _ropes(text: PreTrainedConfig) -> list[Mapping[str, Any]]:
    """The settings of rotary positions, one for all layers or one for each type of them."""
    rope = getattr(text, "rope_parameters", None) or {}
    parts = [part for part in rope.values() if isinstance(part, Mapping)]
    return parts or [rope]
