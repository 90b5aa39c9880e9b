import pytest
import torch
from tiny import tiny_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
)

from rlhf.common.errors import ModelError
from rlhf.models.trainable import choose_trainable, inseparable, train_only_top
from rlhf.settings.training import Lora

NORMS = {f"model.layers.1.{name}_layernorm.weight" for name in ("input", "post_attention")}


def trainable(tied: bool, layers: int | None) -> set[str]:
    """The parameters that learn, blocks of attention and MLP by the name of their layer."""
    model = tiny_model(tied=tied)
    train_only_top(model, layers)
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    return {name.split(".self_attn")[0].split(".mlp")[0] for name in names}


def test_without_a_number_everything_is_trained() -> None:
    everything = trainable(tied=True, layers=None)
    parts = {"model.embed_tokens.weight", "model.layers.0", "model.layers.1", "model.norm.weight"}
    assert parts <= everything


def test_only_the_top_is_trained() -> None:
    top = {"model.layers.1", "model.norm.weight", *NORMS}
    # tied embeddings are below the top, and the head with them
    assert trainable(tied=True, layers=1) == top
    assert trainable(tied=False, layers=1) == {*top, "lm_head.weight"}


@pytest.mark.parametrize("tied", [True, False])
def test_tokens_that_no_training_will_tell_apart_are_found(tied: bool) -> None:
    model = tiny_model(tied=tied)
    weight = model.get_output_embeddings().weight
    with torch.no_grad():
        weight[9] = weight[5]
        # the rounding of what was never learnt
        weight[7] = weight[5] + 1e-3 * weight.norm(dim=1).median() / 8
    # all weights learn
    assert inseparable(model, 5) == []
    choose_trainable(model, None, Lora(rank=2), 1, "test")
    assert inseparable(model, 5) == [7, 9] and inseparable(model, 6) == []
    # tied embeddings are below the top
    other = tiny_model(tied=tied)
    with torch.no_grad():
        other.get_output_embeddings().weight[9] = other.get_output_embeddings().weight[5]
    train_only_top(other, 1)
    assert inseparable(other, 5) == ([9] if tied else [])


def test_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(ModelError, match="trainable_layers 3: the model has 2 layers"):
        train_only_top(tiny_model(), 3)


def test_a_model_without_a_list_of_layers_is_refused_by_its_kind() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2))
    model.transformer.h = nn.Sequential(*model.transformer.h)
    with pytest.raises(ModelError, match="a GPT2LMHeadModel has no list of layers"):
        train_only_top(model, 1)


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
OPT = {"ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64}


@pytest.mark.parametrize(
    ("config", "top"),
    [
        (GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2), ("h.1.", "ln_f.")),
        (GPTNeoXConfig(**SMALL, intermediate_size=64), ("layers.1.", "final_layer_norm.")),
        (OPTConfig(**SMALL, **OPT), ("decoder.layers.1.", "decoder.final_layer_norm.")),
        (FalconConfig(**SMALL), ("h.1.", "ln_f.")),
        (PhiConfig(**SMALL, intermediate_size=64), ("layers.1.", "final_layernorm.")),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_the_top_of_each_family_is_found(config: PreTrainedConfig, top: tuple[str, ...]) -> None:
    model = AutoModelForCausalLM.from_config(config)
    train_only_top(model, 1)
    head = {id(value) for value in model.get_output_embeddings().parameters()}
    embeddings = id(model.get_input_embeddings().weight)
    for name, value in model.base_model.named_parameters():
        if id(value) not in head or id(value) == embeddings:
            assert value.requires_grad == name.startswith(top), name
