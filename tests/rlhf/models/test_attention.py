from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from rlhf.models.attention import GROUPED, cpu_attention, grouped_attention
from rlhf.models.saving import load_causal_lm, save_causal_lm

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}
CONFIGS = [
    LlamaConfig(**SHAPE),
    Qwen2Config(**SHAPE),
    Qwen3Config(**SHAPE, head_dim=16),
    MistralConfig(**SHAPE, sliding_window=4),
    LlamaConfig(**SHAPE | {"num_key_value_heads": 4}),
]


def run(
    model: PreTrainedModel, implementation: str, mask: torch.Tensor
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """States of the real tokens and the gradients of their sum of cubes."""
    model.set_attn_implementation(implementation)
    ids = torch.arange(mask.numel()).view(mask.shape) * 7 % 60 + 2
    states = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    gradients = torch.autograd.grad(states.pow(3).sum(), list(model.base_model.parameters()))
    return states, list(gradients)


@pytest.mark.parametrize(
    "config", CONFIGS, ids=lambda config: f"{config.model_type}-{config.num_key_value_heads}"
)
@pytest.mark.parametrize("lengths", [(9, 9, 9), (9, 4, 1)], ids=["full", "padded"])
def test_it_is_the_models_own_eager_attention(
    config: PreTrainedConfig, lengths: tuple[int, ...]
) -> None:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config).eval()
    assert cpu_attention(config) == GROUPED
    mask = (torch.arange(9) < torch.tensor(lengths)[:, None]).long()
    expected, expected_gradients = run(model, "eager", mask)
    found, gradients = run(model, GROUPED, mask)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, atol=2e-3, rtol=1e-3)


def test_a_model_whose_attention_does_more_keeps_its_own() -> None:
    assert cpu_attention(Gemma2Config(**SHAPE, attn_logit_softcapping=20.0)) == "eager"


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU models are loaded with SDPA")
def test_models_are_loaded_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_causal_lm(tiny_model(1), tiny_tokenizer(), tmp_path / "model")
    loaded = load_causal_lm(tmp_path / "model")
    calls = []

    def count(*arguments: Any, **named: Any) -> tuple[torch.Tensor, None]:
        calls.append(1)
        return grouped_attention(*arguments, **named)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, GROUPED, count)
    loaded(input_ids=torch.tensor([[2, 9, 30]]))
    # once in each layer
    assert len(calls) == 2


def test_a_saved_model_does_not_ask_for_it(tmp_path: Path) -> None:
    """Others could not load it."""
    save_causal_lm(tiny_model(1), tiny_tokenizer(), tmp_path / "model")
    loaded = load_causal_lm(tmp_path / "model")
    save_causal_lm(loaded, tiny_tokenizer(), tmp_path / "again")
    assert GROUPED not in (tmp_path / "again" / "config.json").read_text()
