"""Shapes of models, counted without their weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from rlhf.common.errors import ModelError
from rlhf.models.trainable import choose_trainable
from rlhf.plan.models import learning
from rlhf.plan.shapes import KNOWN, ModelShape, find_shape, read_shape
from rlhf.settings.training import Lora
from rlhf.workspace import Workspace

LITTLE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def test_llama_7b_by_hand(llama: ModelShape) -> None:
    block = 4 * 4096**2 + 3 * 4096 * 11008 + 2 * 4096
    assert llama.block == block
    assert llama.parameters == 32 * block + 2 * 32000 * 4096 + 4096 == 6_738_415_616
    assert (llama.head, llama.norm) == (32000 * 4096, 4096)
    assert (llama.query, llama.key, llama.inner, llama.gated) == (4096, 4096, 11008, True)


def test_tied_embeddings_and_grouped_heads_by_hand(smollm: ModelShape) -> None:
    block = 2 * 576**2 + 2 * 576 * 192 + 3 * 576 * 1536 + 2 * 576
    assert smollm.parameters == 30 * block + 49152 * 576 + 576 == 134_515_008
    assert smollm.head == 0
    assert (smollm.query, smollm.key) == (576, 192)
    assert smollm.outside == 49152 * 576 + 576


def test_layers_of_gpt2_that_hold_their_weights_transposed() -> None:
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, n_positions=16)
    shape = read_shape(config.to_dict(), "gpt2", "test")
    assert shape.linear == {"c_attn": (32, 96), "c_proj": (128, 32), "c_fc": (32, 128)}
    assert (shape.inner, shape.gated, shape.key) == (128, False, 32)


@pytest.mark.parametrize("layers", [None, 2])
@pytest.mark.parametrize("lora", [None, Lora(rank=3), Lora(rank=3, target_modules=("q_proj",))])
def test_what_learns_is_what_the_stages_let_learn(layers: int | None, lora: Lora | None) -> None:
    model = LlamaForCausalLM(LlamaConfig(**LITTLE, tie_word_embeddings=False))
    shape = read_shape(model.config.to_dict(), "little", "test")
    assert shape.parameters == sum(value.numel() for value in model.parameters())
    choose_trainable(model, layers, lora, 1, "test")
    own = learning(shape, layers, lora)
    values = list(model.parameters())
    assert own.count == sum(value.numel() for value in values if value.requires_grad)
    assert own.total == sum(value.numel() for value in values)


def test_what_is_asked_for_where_a_shape_is_not_known(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(ModelError, match="its shape is not known before it is fetched"):
        find_shape("hub:someone/model@0123", workspace)
    with pytest.raises(ModelError, match="no such file"):
        find_shape("hub:someone/model@0123", workspace, str(tmp_path / "nowhere"))
    path = tmp_path / "config.json"
    path.write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        find_shape("starter", workspace, str(path))
    path.write_text("[1]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"expected an object, .* found list"):
        find_shape("starter", workspace, str(path))
    headless = LITTLE | {"model_type": "llama", "num_attention_heads": 0}
    path.write_text(json.dumps(headless), encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json: .* may be 0: num_attention_heads$"):
        find_shape("starter", workspace, str(path))
    path.write_text(json.dumps({"model_type": "no-such"}), encoding="utf-8")
    with pytest.raises(ModelError, match="no causal language model that we can read"):
        find_shape("starter", workspace, str(path))


def test_a_config_of_a_path_and_what_presets_mean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    config = LlamaConfig(**LITTLE)
    config.save_pretrained(tmp_path / "mine")
    assert find_shape("path:mine", workspace).blocks == 3
    monkeypatch.delenv("RLHF_BASE_MODEL", raising=False)
    assert find_shape("path:${RLHF_BASE_MODEL}", workspace).name == "llama-7b"
    monkeypatch.setenv("RLHF_BASE_MODEL", str(tmp_path / "mine"))
    assert find_shape("path:${RLHF_BASE_MODEL}", workspace).blocks == 3
    little = find_shape("random:2x64", workspace)
    assert (little.blocks, little.width, little.heads, little.vocabulary) == (2, 64, 4, 1024)


def test_nothing_is_allocated() -> None:
    config, source = KNOWN["llama-7b"]
    with Allocated() as allocated:
        assert read_shape(config, "llama-7b", source).parameters > 6e9
    assert allocated.size == 0
    # of a model that is made it counts the weights
    with Allocated() as allocated:
        model = LlamaForCausalLM(LlamaConfig(**LITTLE))
    assert allocated.size >= 4 * sum(value.numel() for value in model.parameters())


class Allocated(TorchDispatchMode):
    """Adds up the bytes of all tensors that operations make, but on the device meta, which has none."""

    size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            if torch.is_tensor(value) and value.device.type != "meta":
                self.size += value.untyped_storage().nbytes()
        return found
