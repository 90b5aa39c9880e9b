"""One backbone in memory for several models: weights that are equal and do not learn are held once."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

# where a layer with an adapter keeps the layer that it was
_ADAPTED = ".base_layer"

Weights = Mapping[str, nn.Parameter]


def share_weights(model: PreTrainedModel, others: Sequence[Weights]) -> Weights:
    """Let a model use the very weights of others wherever they are equal to its frozen ones, bit for bit.

    Of what does not learn one copy is then in memory. Gives the model's frozen weights by name.
    """
    for path, part in model.named_modules():
        for name, value in part.named_parameters(recurse=False):
            if not value.requires_grad:
                setattr(part, name, _held(f"{path}.{name}", value, others))
    named = model.named_parameters(remove_duplicate=False)
    return {_plain(name): value for name, value in named if not value.requires_grad}


def _held(name: str, value: nn.Parameter, others: Sequence[Weights]) -> nn.Parameter:
    for weights in others:
        other = weights.get(_plain(name))
        alike = other is not None and (other.dtype, other.shape) == (value.dtype, value.shape)
        if other is not None and alike and torch.equal(other, value):
            return other
    return value


def _plain(name: str) -> str:
    """A parameter's name in the model without adapters."""
    return name.replace(_ADAPTED, "")
