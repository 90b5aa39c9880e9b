"""Seeds derived by name, so that no two uses of randomness share a stream by accident."""

import hashlib
import random
from typing import TYPE_CHECKING

# imported where it is used: a stage that only derives seeds, the report, starts in half the time
if TYPE_CHECKING:
    import torch


def derive_seed(root: int, *names: str | int) -> int:
    """The seed of `names` under the run's root seed, 0 <= seed < 2**63; stable across machines.

    torch's generator on a CPU uses the lower 32 bits: enough to keep names apart.
    """
    text = "/".join(str(part) for part in (root, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(
    root: int, *names: str | int, device: "str | torch.device" = "cpu"
) -> "torch.Generator":
    """Make a torch generator seeded by name.

    Its state never needs saving: the name gives it back.
    """
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(root, *names))


def seed_everything(root: int, *names: str | int) -> None:
    """Seed the global generators of Python, numpy and torch, for library code that takes no generator."""
    import numpy as np
    import torch

    seed = derive_seed(root, *names)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
