"""LoRA (arXiv 2106.09685): low-rank adapters in the linear layers of a frozen model, by `peft`.

They are put in place: a model keeps its class, and whatever reads one reads it as before. On disk a
model is merged, W + alpha / rank * B A, so that nobody after needs to know.
"""

import copy
import logging
import math
import warnings
from collections.abc import Iterator, Sequence

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from rlhf.common.errors import ModelError
from rlhf.settings.training import Lora

log = logging.getLogger("rlhf")

_ADAPTER = "default"


# -- putting them in -------------------------------------------------------------------------------


def add_adapters(
    model: PreTrainedModel, lora: Lora, blocks: Sequence[nn.Module], random: torch.Generator
) -> None:
    """Put adapters into linear layers of some of a model's blocks; all else is frozen.

    A is drawn from U(-1, 1) / sqrt(width), B is 0: the model is the same function as before, to the
    bit. Raises ModelError that names the layers there are.
    """
    names = _adapted(model, lora.target_modules, blocks)
    config = LoraConfig(
        r=lora.rank,
        # peft types it as int and divides by the rank
        lora_alpha=lora.alpha,  # type: ignore[arg-type]
        lora_dropout=lora.dropout,
        target_modules=names,
    )
    with warnings.catch_warnings():
        # GPT-2's layers hold their weights transposed; peft tells that it noticed
        warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
        try:
            inject_adapter_in_model(config, model, adapter_name=_ADAPTER)
        except ValueError as error:
            raise ModelError(f"lora.target_modules: {error}") from error
    for _, layer in _lora_layers(model):
        # peft gives it the layer's dtype: what learns begins in float32, whatever the layer is in
        layer.lora_A.float()
        layer.lora_B.float()
        # from a stream of its own: peft draws from the global one
        a: Tensor = layer.lora_A[_ADAPTER].weight  # type: ignore[assignment]
        nn.init.kaiming_uniform_(a, a=math.sqrt(5), generator=random)
    model.eval()


def _adapted(
    model: PreTrainedModel, wanted: Sequence[str] | None, blocks: Sequence[nn.Module]
) -> list[str]:
    """The names of the linear layers that get an adapter."""
    inside = {id(part) for block in blocks for part in block.modules()}
    linear = {
        name: part
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear | Conv1D) and id(part) in inside
    }
    kinds = sorted({_last(name) for name in linear})
    there = f"a {type(model).__name__} has {', '.join(kinds) or 'none'}"
    fused = sorted({_last(name) for name in _fused_experts(model, inside)})
    if not linear:
        raise ModelError(f"lora: no linear layers to adapt: {there}")
    if wanted is None:
        if fused:
            log.warning(
                "lora: %s hold the weights of all experts in one: they get no adapter and stay as they are",
                ", ".join(fused),
            )
        return list(linear)
    for name in wanted:
        if name in fused:
            raise ModelError(
                f"lora.target_modules: {name} holds the weights of all experts in one and is no linear "
                f"layer; {there}"
            )
        if name not in kinds:
            raise ModelError(f"lora.target_modules: no linear layer is called {name}; {there}")
    return [name for name in linear if _last(name) in wanted]


def _fused_experts(model: PreTrainedModel, inside: set[int]) -> Iterator[str]:
    """The parameters that stack the weight matrices of several experts."""
    for path, part in model.named_modules():
        if id(part) in inside and "expert" in path.lower():
            for name, value in part.named_parameters(recurse=False):
                if value.dim() == 3:
                    yield f"{path}.{name}"


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _lora_layers(model: nn.Module) -> list[tuple[str, LoraLinear]]:
    return [(name, part) for name, part in model.named_modules() if isinstance(part, LoraLinear)]


# -- taking them out -------------------------------------------------------------------------------


@torch.no_grad()
def merged(model: PreTrainedModel) -> PreTrainedModel:
    """A model without adapters that gives the same logits: W + alpha / rank * B A in place of W.

    Merged weights are float32: in bf16 much of what was learnt would be rounded away. All others are
    shared with `model`, which stays as it is.
    """
    shared = {id(value): value for value in (*model.parameters(), *model.buffers())}
    plain = copy.deepcopy(model, dict(shared))
    for name, layer in _lora_layers(plain):
        parent, _, own = name.rpartition(".")
        setattr(plain.get_submodule(parent), own, _merged_layer(layer))
    del plain.peft_config
    return plain


def _merged_layer(layer: LoraLinear) -> nn.Module:
    base: nn.Module = layer.get_base_layer()
    weight: Tensor = base.weight  # type: ignore[assignment]
    delta = layer.get_delta_weight(_ADAPTER)
    base.weight = nn.Parameter(weight.float() + delta.float(), requires_grad=False)
    return base
