"""Adapters: where they go, that they start as the model they are put into, what learns, how they merge."""

import copy
from pathlib import Path

import pytest
import torch
from families import random_model
from tiny import PAD, same_models, tiny_model, tiny_tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.batches.padding import TokenBatch, pad_responses
from rlhf.common.errors import ModelError
from rlhf.engine.adapters import has_adapters, learning_parts
from rlhf.models.backbone import hidden_states, target_logits
from rlhf.models.lora import merged
from rlhf.models.saving import load_causal_lm, save_causal_lm
from rlhf.models.trainable import choose_trainable
from rlhf.settings.training import Lora

LORA = Lora(rank=4, alpha=8.0)
PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41], [2, 50, 51]]
RESPONSES = [[12, 13, 14, 1], [15, 1], [16], [17, 18, 1]]
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


@pytest.fixture
def batch() -> TokenBatch:
    return pad_responses(PROMPTS, RESPONSES, PAD)


def adapt(model: PreTrainedModel, lora: Lora = LORA, layers: int | None = None) -> PreTrainedModel:
    choose_trainable(model, layers, lora, 1, "test")
    return model


@torch.no_grad()
def move(model: PreTrainedModel, size: float = 0.1) -> PreTrainedModel:
    """Adapters as some updates would leave them."""
    random = torch.Generator().manual_seed(3)
    for value in model.parameters():
        if value.requires_grad:
            value.add_(size * torch.randn(value.shape, generator=random))
    return model


def logits(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    return target_logits(model, hidden_states(model, batch), batch)


def adapted_names(model: PreTrainedModel) -> set[str]:
    return {
        name.partition(".lora_")[0]
        for name, value in model.named_parameters()
        if value.requires_grad
    }


# -- the start -------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_model_with_fresh_adapters_is_the_model_to_the_bit(batch: TokenBatch) -> None:
    model = tiny_model(std=0.2)
    before = logits(model, batch)
    assert torch.equal(logits(adapt(model), batch), before)
    # and no more so once they have learnt
    assert not torch.allclose(logits(move(model), batch), before, atol=1e-2)


def test_they_begin_from_a_stream_of_their_own_name() -> None:
    first = adapt(tiny_model())
    torch.rand(5)
    second = adapt(tiny_model())
    for (name, one), (_, two) in zip(
        first.named_parameters(), second.named_parameters(), strict=True
    ):
        assert torch.equal(one, two), name
    down = first.model.layers[0].mlp.down_proj.lora_A["default"].weight.detach()
    assert down.shape == (4, 128) and 0 < float(down.abs().max()) <= 128**-0.5
    other = tiny_model()
    choose_trainable(other, None, LORA, 1, "another")
    assert not torch.equal(other.model.layers[0].mlp.down_proj.lora_A["default"].weight, down)


def test_in_a_bf16_model_they_begin_with_the_same_numbers_in_float32() -> None:
    whole, half = adapt(tiny_model(0)), adapt(tiny_model(0).bfloat16())
    expected = {name: value for name, value in whole.named_parameters() if value.requires_grad}
    found = {name: value for name, value in half.named_parameters() if value.requires_grad}
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value.dtype == torch.float32 and torch.equal(value, expected[name]), name


def test_the_adapter_is_alpha_over_rank_b_a() -> None:
    model = move(adapt(tiny_model()))
    layer = model.model.layers[1].self_attn.q_proj
    states = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = states @ layer.base_layer.weight.T + 8.0 / 4 * (states @ a.T @ b.T)
    torch.testing.assert_close(layer(states), expected)


# -- what learns -----------------------------------------------------------------------------------


def test_all_linear_layers_of_the_blocks_and_nothing_else() -> None:
    model = adapt(tiny_model(tied=False))
    names = adapted_names(model)
    assert {name.rpartition(".")[2] for name in names} == LINEAR
    assert len(names) == 2 * len(LINEAR)
    learning = [name for name, value in model.named_parameters() if value.requires_grad]
    assert all(".lora_A.default." in name or ".lora_B.default." in name for name in learning)
    assert len(learning) == 2 * len(names)


def test_named_layers_alone() -> None:
    lora = Lora(rank=2, target_modules=("q_proj", "v_proj"))
    names = adapted_names(adapt(tiny_model(), lora))
    layers = range(2)
    expected = {f"model.layers.{n}.self_attn.{p}_proj" for n in layers for p in "qv"}
    assert names == expected


def test_trainable_layers_puts_them_in_the_top_blocks_alone() -> None:
    names = adapted_names(adapt(tiny_model(), layers=1))
    assert len(names) == len(LINEAR) and all("layers.1." in name for name in names)
    with pytest.raises(ModelError, match="trainable_layers 3: the model has 2 layers"):
        adapt(tiny_model(), layers=3)


def test_a_name_that_is_not_there_is_refused_with_those_that_are() -> None:
    lora = Lora(target_modules=("q_proj",))
    there = "a GPT2LMHeadModel has c_attn, c_fc, c_proj"
    with pytest.raises(
        ModelError, match=f"target_modules: no linear layer is called q_proj; {there}"
    ):
        adapt(random_model("gpt2"), lora)


# -- merging ---------------------------------------------------------------------------------------


@torch.no_grad()
def test_merged_gives_the_same_logits_and_leaves_the_model_as_it_is(batch: TokenBatch) -> None:
    model = move(adapt(tiny_model(std=0.2)))
    before = {name: value.clone() for name, value in model.named_parameters()}
    expected = logits(model, batch)
    plain = merged(model)
    assert type(plain) is type(model) and not has_adapters(plain) and has_adapters(model)
    assert {name for name, _ in plain.named_parameters()} == {
        name for name, _ in tiny_model().named_parameters()
    }
    torch.testing.assert_close(logits(plain, batch), expected, atol=1e-5, rtol=1e-5)
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name]), name
    # what has no adapter is no copy
    assert plain.get_input_embeddings().weight is model.get_input_embeddings().weight


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
def test_a_saved_model_has_the_layout_of_one_without(
    batch: TokenBatch, tmp_path: Path, tied: bool
) -> None:
    start = tiny_model(std=0.2, tied=tied)
    save_causal_lm(start, tiny_tokenizer(), tmp_path / "full")
    model = adapt(copy.deepcopy(start))
    save_causal_lm(model, tiny_tokenizer(), tmp_path / "fresh")
    # nothing was learnt: the same files, to the byte
    assert same_models(tmp_path / "fresh", tmp_path / "full")
    for path in (tmp_path / "full").iterdir():
        assert path.read_bytes() == (tmp_path / "fresh" / path.name).read_bytes(), path.name
    save_causal_lm(move(model), tiny_tokenizer(), tmp_path / "moved")
    loaded = load_causal_lm(tmp_path / "moved")
    torch.testing.assert_close(logits(loaded, batch), logits(model, batch), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_was_learnt_in_bf16_is_not_rounded_away(tmp_path: Path) -> None:
    """ZeRO keeps weights in bf16, where a small difference is less than half a step."""
    model = adapt(tiny_model(std=0.2)).bfloat16()
    layer = model.model.layers[0].self_attn.q_proj
    layer.lora_A["default"].weight.fill_(2.0**-8)
    layer.lora_B["default"].weight.fill_(2.0**-8)
    # four ranks, each times alpha / rank = 2
    delta = 4 * 2 * 2.0**-16
    before = layer.base_layer.weight.float()
    # most weights would stay as they were
    assert float(((before + delta).bfloat16().float() == before).float().mean()) > 0.5
    save_causal_lm(model, tiny_tokenizer(), tmp_path / "model")
    found = load_causal_lm(tmp_path / "model").model.layers[0].self_attn.q_proj.weight
    torch.testing.assert_close(found - before, torch.full_like(before, delta), atol=1e-7, rtol=0)
    # the others are the very ones
    other = load_causal_lm(tmp_path / "model").model.embed_tokens.weight
    assert torch.equal(other, model.model.embed_tokens.weight.float())


# -- families --------------------------------------------------------------------------------------

FOUND = {
    "gpt2": {"c_attn", "c_fc", "c_proj"},
    "gptj": {"fc_in", "fc_out", "k_proj", "out_proj", "q_proj", "v_proj"},
    "gpt_neox (Pythia)": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "opt": {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"},
    "falcon": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "bloom, ALiBi": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
    "llama": LINEAR,
    "phi": {"q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"},
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "qwen3": LINEAR,
    "gemma2": LINEAR,
    "mixtral (experts)": {"q_proj", "k_proj", "v_proj", "o_proj"},
}


@pytest.mark.parametrize("family", FOUND)
def test_the_linear_layers_of_each_family_are_found_learn_and_merge(
    family: str, batch: TokenBatch
) -> None:
    model = random_model(family)
    with torch.no_grad():
        before = logits(model, batch)
    assert torch.equal(logits(adapt(model), batch), before)
    assert {name.rpartition(".")[2] for name in adapted_names(model)} == FOUND[family]
    move(model, 0.05)
    logits(model, batch).square().mean().backward()
    for name, value in model.named_parameters():
        assert (value.grad is not None and bool(value.grad.any())) == value.requires_grad, name
    with torch.no_grad():
        torch.testing.assert_close(
            logits(merged(model), batch), logits(model, batch), atol=1e-5, rtol=1e-5
        )


def test_experts_held_in_one_are_named(caplog: pytest.LogCaptureFixture) -> None:
    adapt(random_model("mixtral (experts)"))
    assert "down_proj, gate_up_proj hold the weights of all experts in one" in caplog.text
    lora = Lora(target_modules=("gate_up_proj",))
    with pytest.raises(ModelError, match="gate_up_proj holds the weights of all experts in one"):
        adapt(random_model("mixtral (experts)"), lora)


def test_layers_that_peft_cannot_adapt_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="'out_proj' is incompatible with Mamba-based models"):
        adapt(random_model("mamba (state space)"))
    names = adapted_names(
        adapt(random_model("mamba (state space)"), Lora(target_modules=("in_proj",)))
    )
    assert len(names) == 2


# -- for the engines -------------------------------------------------------------------------------


def test_the_parts_that_learn_are_the_adapters_alone() -> None:
    model = adapt(tiny_model(), layers=1)
    parts = learning_parts(model)
    own = {id(value) for value in parts.parameters()}
    assert own == {id(value) for value in model.parameters() if value.requires_grad}
    assert len(parts) == 2 * len(LINEAR)
