"""Where DeepSpeed 0.19 keeps what a checkpoint needs: float32 weights, and which part of which parameter they are."""

from collections.abc import Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from rlhf.engine.trainer_state import Shard

# this process's part of the float32 weights
MASTER_WEIGHTS = (
    # ZeRO 1 and 2
    "single_partition_of_fp32_groups",
    # ZeRO 1 in bf16
    "fp32_groups_flat_partition",
    # ZeRO 3
    "fp32_partitioned_groups_flat",
)


def shards_of(module: nn.Module, wrapper: Any) -> list[Shard]:
    """This process's part of each parameter that learns; wrapper: DeepSpeed's optimiser of them."""
    return list(_shards(module, wrapper))


def _shards(module: nn.Module, wrapper: Any) -> Iterator[Shard]:
    groups = _master_weights(wrapper)
    # DeepSpeed adds attributes to them
    learning: list[tuple[str, Any]] = [
        (name, value) for name, value in module.named_parameters() if value.requires_grad
    ]
    for name, value in learning:
        if hasattr(value, "ds_id"):
            # ZeRO 3 deals each parameter out in equal parts, the last of them padded
            group, offset, length = wrapper.grad_position[wrapper.get_param_id(value)]
            start = dist.get_rank() * length
            length = min(length, value.ds_numel - start)
        elif value._hp_mapping is not None:
            # ZeRO 1 and 2 deal out all parameters in a row
            mapping = value._hp_mapping
            group, offset = mapping.param_group_index, mapping.hp_fragment_address.start
            start, length = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
        else:
            continue
        if length > 0:
            yield Shard(name, start, groups[group], slice(offset, offset + length))


def refresh_weights(wrapper: Any) -> None:
    """Bring the model's own weights in line with the float32 ones; every process calls it."""
    if hasattr(wrapper, "update_lp_params"):
        wrapper.update_lp_params()
        return
    # ZeRO 3: parts from the master copy, then the small parameters that stay whole
    wrapper._partition_all_parameters()
    for index in range(len(wrapper.fp16_groups)):
        wrapper._reassign_or_swap_out_partitioned_parameters(index)
    if wrapper.persistent_parameters:
        wrapper.persistent_parameters[0].all_gather(wrapper.persistent_parameters)


def forget_gradients(wrapper: Any) -> None:
    """Clear what DeepSpeed keeps of a step's gradients, on the host and under ZeRO-3.

    Those of a parameter that no loss of the next step reaches would count once more in it.
    """
    kept = [part.grad for part in _master_weights(wrapper)]
    kept.append(getattr(wrapper, "grad_partitions_flat_buffer", None))
    for gradients in kept:
        if gradients is not None:
            gradients.zero_()


def _master_weights(wrapper: Any) -> list[Tensor]:
    """This process's part of the float32 weights, flat."""
    found: list[Tensor] = next(
        getattr(wrapper, name) for name in MASTER_WEIGHTS if hasattr(wrapper, name)
    )
    return found
