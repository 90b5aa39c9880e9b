"""Weights as a vLLM server reads them: `python -m rlhf.rollout.vllm_weights models/sft DIRECTORY` for one to start from."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.common.command import run_as_command
from rlhf.common.files import read_json, staged_directory, write_json
from rlhf.models.saving import load_causal_lm, without_adapters


def write_weights(model: PreTrainedModel, directory: Path, dtype: torch.dtype) -> None:
    """Write configuration and weights (safetensors, adapters merged) as `dtype`, in one step.

    Embedding and head have the rows that the tokenizer names, and no others: vLLM draws from all that
    there are. Tied ones are written twice, as two: reading weights anew, vLLM 0.32 passes over the
    second of them, and a copy of the old ones that it has packed for a CPU would stay.
    """
    plain = without_adapters(model)
    named = getattr(model, "tokens_with_a_name", None)
    vocabulary = _vocabulary(plain)
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in _tensors(plain):
        weight = value.detach()[:named] if value.data_ptr() in vocabulary else value.detach()
        weight = weight.to("cpu", dtype)
        weights[name] = weight.clone() if value.data_ptr() in seen else weight.contiguous()
        seen.add(value.data_ptr())
    changes: dict[str, Any] = {"tie_word_embeddings": False} | (
        {} if named is None else {"vocab_size": named}
    )
    with staged_directory(directory) as partial:
        plain.save_pretrained(partial, state_dict=weights)
        config = partial / "config.json"
        write_json(config, _changed(read_json(config), changes))


def _vocabulary(model: PreTrainedModel) -> set[int]:
    """Where the tensors lie that have a row a token."""
    parts = (model.get_input_embeddings(), model.get_output_embeddings())
    return {value.data_ptr() for part in parts for value in part.parameters()}


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """All that is saved of a model, by name, tied ones by each of theirs.

    Not by `state_dict`, which takes apart the weights that were put together of a model in parts.
    """
    yield from model.named_parameters(remove_duplicate=False)
    for path, part in model.named_modules():
        for name, value in part.named_buffers(path, recurse=False):
            if name.rpartition(".")[2] not in part._non_persistent_buffers_set:
                yield name, value


def _changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The configuration with changes; also that of the text, where a model has one of its own."""
    config = config | changes
    text = config.get("text_config")
    return config if text is None else config | {"text_config": text | changes}


def main(source: Path, directory: Path) -> None:
    """Write the weights of a model, as float32, for a server that `ppo.sampling.vllm.address` is to find."""
    write_weights(load_causal_lm(source), directory, torch.float32)
    print(f"{directory}: weights for a vLLM server to start from")


if __name__ == "__main__":
    sys.exit(run_as_command(lambda: main(Path(sys.argv[1]), Path(sys.argv[2]))))
