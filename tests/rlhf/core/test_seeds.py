import random

import numpy as np
import torch

from rlhf.core.seeds import derive_seed, generator, seed_everything


def test_a_seed_is_fixed_by_root_and_names() -> None:
    # the same on every machine and in every version
    assert derive_seed(1, "sft", 3) == 5672299009749622283
    assert derive_seed(1, "sft", 3) != derive_seed(2, "sft", 3)
    assert derive_seed(1, "sft", 3) != derive_seed(1, "sft", 4)
    assert derive_seed(1, "a", "b") != derive_seed(1, "ab")
    assert all(0 <= derive_seed(root, "x") < 2**63 for root in range(100))


def test_generators_of_one_name_give_the_same_numbers() -> None:
    first, again, other = (torch.rand(4, generator=generator(1, name)) for name in "aab")
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_global_generators_are_seeded() -> None:
    def numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    seed_everything(1, "sft")
    first = numbers()
    seed_everything(1, "sft")
    assert numbers() == first
