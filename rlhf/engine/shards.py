"""Models that are only read, spread over the processes: the weights of a block are put together where it is run.

torch's FSDP2 does it. Every process must run a block equally often.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard


def spread(
    trunk: nn.Module, blocks: Sequence[nn.Module], device: torch.device, *, on_host: bool
) -> None:
    """Leave each process its part of the blocks of a trunk, which run one after the other.

    on_host: the parts lie in host memory. All other weights of the trunk stay as they are.
    """
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    policy = CPUOffloadPolicy(pin_memory=device.type == "cuda") if on_host else OffloadPolicy()
    for block in blocks:
        fully_shard(block, mesh=mesh, reshard_after_forward=True, offload_policy=policy)
    inside = {value for block in blocks for value in block.parameters()}
    # as their root it fetches a block while the one before is run
    others = {value for value in trunk.parameters() if value not in inside}
    fully_shard(trunk, mesh=mesh, ignored_params=others)


def move_others(model: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Move all of a model to the device but its blocks."""
    inside = {id(part) for block in blocks for part in block.modules()}
    for part in model.modules():
        if id(part) not in inside:
            for value in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
                value.data = value.data.to(device)


@contextmanager
def put_together(model: nn.Module) -> Iterator[None]:
    """Whole weights on each process inside the block, of a model that may have been spread."""
    parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
    for part in parts:
        part.unshard()
        part.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for part in parts:
            part.set_reshard_after_forward(True, recurse=False)
            part.reshard()
