"""Which process this is and how to wait for the others.

Without a process group there is one process and no waiting.
"""

from collections.abc import Sequence
from typing import TypeVar

import torch.distributed as dist

Item = TypeVar("Item")


def is_main() -> bool:
    """Whether this process writes what all share."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()


def share_of(items: Sequence[Item]) -> Sequence[Item]:
    """Those of the items that this process works on: dealt out one by one."""
    if not dist.is_initialized():
        return items
    return items[dist.get_rank() :: dist.get_world_size()]


def all_gather(items: Sequence[Item]) -> list[Item]:
    """The items of all processes in the order of ranks, on each process."""
    if not dist.is_initialized():
        return list(items)
    parts: list[list[Item]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(parts, list(items))
    return [item for part in parts for item in part]
