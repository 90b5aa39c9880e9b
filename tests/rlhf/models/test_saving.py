from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_tokenizer

from rlhf.common.errors import ModelError
from rlhf.models.saving import load_causal_lm, load_tokenizer, save_causal_lm


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    save_causal_lm(tiny_model(1), tiny_tokenizer(), tmp_path / "model")
    return tmp_path / "model"


def test_round_trip(directory: Path) -> None:
    loaded, original = load_causal_lm(directory), tiny_model(1)
    for name, value in original.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert not loaded.training
    assert load_tokenizer(directory).get_vocab() == tiny_tokenizer().get_vocab()


def test_loaded_in_bf16_it_is_the_model_that_was_cast(directory: Path) -> None:
    """Every weight to the bit; what tells positions stays in float32."""
    loaded, whole = load_causal_lm(directory, torch.bfloat16), load_causal_lm(directory)
    pairs = zip(loaded.named_parameters(), whole.named_parameters(), strict=True)
    for (name, value), (_, original) in pairs:
        assert value.dtype == torch.bfloat16
        assert torch.equal(value, original.bfloat16()), name
    for (name, buffer), (_, original) in zip(
        loaded.named_buffers(), whole.named_buffers(), strict=True
    ):
        assert buffer.dtype == original.dtype == torch.float32
        assert torch.equal(buffer, original), name


def test_a_missing_model_is_named_with_the_way_to_it(tmp_path: Path) -> None:
    for load in (load_causal_lm, load_tokenizer):
        with pytest.raises(ModelError, match=r"models/sft: no model here .*dvc repro"):
            load(tmp_path / "models" / "sft")


def test_weights_that_are_pickles_are_not_loaded(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"no \*\.safetensors"):
        load_causal_lm(directory)


@pytest.mark.parametrize("size", [0, 1000])
def test_weights_that_are_cut_off_are_refused(directory: Path, size: int) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(ModelError, match="model: not a loadable"):
        load_causal_lm(directory)


def test_a_tokenizer_that_pads_with_its_end_of_turn_is_refused(directory: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(directory)
    with pytest.raises(ModelError, match="pad token"):
        load_tokenizer(directory)
