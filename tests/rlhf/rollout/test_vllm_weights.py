"""What a vLLM server reads: all of a model's weights, under the names that it looks for."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from tiny import VOCABULARY, same_models, tiny_model, tiny_tokenizer

from rlhf.engine.shards import put_together, spread
from rlhf.models.saving import load_causal_lm, save_causal_lm, without_adapters
from rlhf.models.trainable import choose_trainable
from rlhf.rollout.vllm_weights import main, write_weights
from rlhf.settings.training import Lora


@pytest.mark.parametrize("tied", [True, False])
def test_the_weights_that_are_handed_over_are_the_model_s(tmp_path: Path, tied: bool) -> None:
    """Tied ones as two: vLLM would keep an old copy of the second."""
    model = tiny_model(5, tied=tied)
    model.save_pretrained(tmp_path / "saved")
    write_weights(model, tmp_path / "handed", torch.float32)
    assert same_models(tmp_path / "saved", tmp_path / "handed")
    found = load_causal_lm(tmp_path / "handed")
    assert not found.config.tie_word_embeddings and model.config.tie_word_embeddings == tied
    with safe_open(tmp_path / "handed" / "model.safetensors", "pt") as weights:
        # buffers that a model makes itself are not among them
        assert set(weights.keys()) == set(tiny_model(5, tied=False).state_dict())


def test_in_bf16_rounded_weights_are_written(tmp_path: Path) -> None:
    write_weights(tiny_model(5), tmp_path / "half", torch.bfloat16)
    found = load_causal_lm(tmp_path / "half", torch.bfloat16).state_dict()
    for name, value in tiny_model(5).state_dict().items():
        assert torch.equal(found[name], value.bfloat16())


def test_adapters_are_merged(tmp_path: Path) -> None:
    model = tiny_model(5)
    choose_trainable(model, None, Lora(rank=2, alpha=4.0), 1, "policy")
    with torch.no_grad():
        for value in model.parameters():
            if value.requires_grad:
                value.add_(0.1)
    write_weights(model, tmp_path / "handed", torch.float32)
    without_adapters(model).save_pretrained(tmp_path / "merged")
    assert same_models(tmp_path / "merged", tmp_path / "handed")


@pytest.mark.parametrize("tied", [True, False])
def test_rows_without_a_token_are_left_out(tmp_path: Path, tied: bool) -> None:
    """vLLM draws from all rows that there are; a draw of these nobody could read."""
    model = tiny_model(5, tied=tied)
    model.resize_token_embeddings(VOCABULARY + 16, mean_resizing=False)
    save_causal_lm(model, tiny_tokenizer(), tmp_path / "padded")
    padded = load_causal_lm(tmp_path / "padded")
    assert padded.get_output_embeddings().weight.shape[0] == VOCABULARY + 16
    main(tmp_path / "padded", tmp_path / "handed")
    found = load_causal_lm(tmp_path / "handed")
    assert found.config.vocab_size == VOCABULARY
    for part in ("get_input_embeddings", "get_output_embeddings"):
        rows = getattr(padded, part)().weight[:VOCABULARY]
        assert torch.equal(getattr(found, part)().weight, rows)
    # the model keeps its own
    assert padded.config.vocab_size == VOCABULARY + 16


@pytest.fixture
def one_process() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("on_host", [False, True], ids=["sharded", "host"])
def test_a_model_in_parts_is_written_whole(tmp_path: Path, on_host: bool) -> None:
    """`engine.frozen_models`: the reference samples for some algorithms."""
    model = tiny_model(5)
    model.requires_grad_(False)
    trunk = model.base_model
    spread(trunk, list(trunk.layers), torch.device("cpu"), on_host=on_host)
    with put_together(model):
        write_weights(model, tmp_path / "handed", torch.float32)
        # still together
        assert trunk.layers[0].mlp.up_proj.weight.shape == (128, 64)
        assert not hasattr(trunk.layers[0].mlp.up_proj.weight, "placements")
    tiny_model(5).save_pretrained(tmp_path / "saved")
    assert same_models(tmp_path / "saved", tmp_path / "handed")
