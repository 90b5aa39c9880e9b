"""Which process this is and how to wait for the others.

Without a process group there is one process and no waiting.
"""

import torch.distributed as dist


def is_main() -> bool:
    """Whether this process writes what all share."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier() -> None:
    """Wait until every process is here."""
    if dist.is_initialized():
        dist.barrier()
