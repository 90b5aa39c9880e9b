"""How long a text may be: longer ones are refused where they would change the others of their batch."""

from typing import Any

import pytest
import torch
import transformers as t
from families import SIZES, config
from transformers import AutoModelForCausalLM, PreTrainedConfig

from rlhf.batches.padding import pad_responses
from rlhf.common.errors import ModelError
from rlhf.core.reach import check_window, longest_text
from rlhf.models.backbone import hidden_states, unembed

LIMIT = 40


def rope(rope_type: str, **more: Any) -> dict[str, Any]:
    return {"rope_type": rope_type, "rope_theta": 10000.0, "factor": 4.0, **more}


def long_rope() -> dict[str, Any]:
    factors = {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    return rope("longrope", original_max_position_embeddings=LIMIT, **factors)


CONFIGS = {
    "longrope": config(
        t.Phi3Config,
        SIZES,
        original_max_position_embeddings=LIMIT,
        rope_parameters=long_rope(),
    ),
    "dynamic": config(
        t.LlamaConfig, SIZES, max_position_embeddings=LIMIT, rope_parameters=rope("dynamic")
    ),
    "doge": config(t.DogeConfig, SIZES, keep_window_size=LIMIT),
}


@pytest.mark.parametrize("name", ["longrope", "dynamic"])
@torch.no_grad()
def test_a_text_of_the_longest_length_changes_no_other_and_a_longer_one_does(name: str) -> None:
    longest = longest_text(CONFIGS[name])
    assert longest == LIMIT
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[name]).eval()
    assert beside(model, 30, longest) < 1e-4
    assert beside(model, 30, longest + 20) > 1e-2


def beside(model: t.PreTrainedModel, short: int, long: int) -> float:
    """By how much the logits of a text change beside a longer one, in standard deviations."""
    rows = [[5 + place % 50 for place in range(length)] for length in (short, long)]
    batch = pad_responses([row[:-2] for row in rows], [row[-2:] for row in rows], 0)
    alone = model(input_ids=torch.tensor(rows[:1])).logits[0]
    both = unembed(model, hidden_states(model, batch))[0, :short]
    return float((alone - both).abs().max() / alone.std())


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("longrope", "the 40 that LongRope reads with its short factors: one longer text"),
        ("dynamic", "the model's window of 40"),
        ("doge", r"the 40 that the model keeps \(keep_window_size\)"),
    ],
)
def test_longer_texts_are_refused_with_the_reason(name: str, reason: str) -> None:
    check_window(CONFIGS[name], {"data.pretrain_tokens": LIMIT})
    with pytest.raises(ModelError, match=f"data.pretrain_tokens: 41 tokens are more than {reason}"):
        check_window(CONFIGS[name], {"data.pretrain_tokens": LIMIT + 1})


def test_positions_that_differ_by_type_of_layer_are_each_looked_at() -> None:
    parts = {"full_attention": rope("default"), "sliding_attention": long_rope()}
    layered: PreTrainedConfig = config(t.LlamaConfig, SIZES)
    layered.rope_parameters = parts
    assert longest_text(layered) == LIMIT


def test_a_window_of_minus_one_is_none() -> None:
    """As XLNet has it."""
    endless = config(t.XLNetConfig, d_model=32, n_layer=2, n_head=4)
    assert longest_text(endless) is None
    check_window(endless, {"data.pretrain_tokens": 10**6})


def test_what_is_scaled_once_and_for_all_reads_its_whole_window() -> None:
    yarn = rope("yarn", original_max_position_embeddings=LIMIT)
    assert longest_text(config(t.LlamaConfig, SIZES, rope_parameters=yarn)) == 256
    assert longest_text(config(t.BloomConfig, hidden_size=32, n_layer=2, n_head=4)) is None
