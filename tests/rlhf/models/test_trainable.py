import pytest
from tiny import tiny_model
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf.common.errors import ModelError
from rlhf.models.trainable import train_only_top

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


def test_more_layers_than_there_are_is_refused() -> None:
    with pytest.raises(ModelError, match="trainable_layers 3: the model has 2 layers"):
        train_only_top(tiny_model(), 3)


def test_a_model_without_a_list_of_layers_is_refused_by_its_kind() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=1, n_head=2))
    with pytest.raises(ModelError, match="a GPT2LMHeadModel has no list of layers"):
        train_only_top(model, 1)
