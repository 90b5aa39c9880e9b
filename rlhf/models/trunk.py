"""The frozen lower blocks that models of one origin share: run once, every model goes on from there.

With `trainable_layers` set, policy, reference, critic and reward model differ in their top blocks only; the states below
them are the same numbers, need no gradient, and stay valid for as long as a rollout is learnt from.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.batches.padding import TokenBatch


def shares_trunk(models: Sequence[PreTrainedModel], layers: int) -> bool:
    """Whether all models are equal, bit for bit, below their top `layers` blocks, and their blocks of one type.

    Where types differ (sliding and full attention), a block's type goes by its place, which a part would shift.
    """
    if any(len(set(getattr(model.config, "layer_types", None) or [None])) > 1 for model in models):
        return False
    first, *others = [_lower(model, layers).state_dict() for model in models]
    return all(
        other.keys() == first.keys() and all(torch.equal(other[key], first[key]) for key in first)
        for other in others
    )


def lower_states(model: PreTrainedModel, layers: int, batch: TokenBatch) -> Tensor:
    """Hidden states under the top `layers` blocks, [B, T, H]."""
    with torch.no_grad():
        return _run(_lower(model, layers), batch, {"input_ids": batch.input_ids})


def upper_states(model: PreTrainedModel, layers: int, batch: TokenBatch, below: Tensor) -> Tensor:
    """Last hidden states, [B, T, H], from those under the top `layers` blocks."""
    count = len(_blocks(model))
    return _run(_part(model, slice(count - layers, count)), batch, {"inputs_embeds": below})


def _lower(model: PreTrainedModel, layers: int) -> nn.Module:
    part = _part(model, slice(0, len(_blocks(model)) - layers))
    part._modules["norm"] = nn.Identity()  # it belongs to the end of the whole
    return part


def _part(model: PreTrainedModel, blocks: slice) -> nn.Module:
    """The backbone with some of its blocks: a new shell around the same modules."""
    part = copy.copy(model.base_model)
    part._modules = dict(model.base_model._modules)
    part._modules["layers"] = nn.ModuleList(_blocks(model)[blocks])
    return part


def _blocks(model: PreTrainedModel) -> list[nn.Module]:
    return list(model.get_submodule(f"{model.base_model_prefix}.layers").children())


def _run(backbone: nn.Module, batch: TokenBatch, inputs: dict[str, Tensor]) -> Tensor:
    position_ids = (batch.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return backbone(
        **inputs,
        attention_mask=batch.attention_mask.long(),
        position_ids=position_ids,
        use_cache=False,
    ).last_hidden_state
