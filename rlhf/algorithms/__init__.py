"""Algorithms of the policy loop: each composes the details of `rlhf.ppo`.

A new one is a file, a line here and its name in the settings.
"""

from collections.abc import Callable
from typing import Any

from rlhf.algorithms.base import Algorithm, Context, Learnable, Material
from rlhf.algorithms.ppo_max import PpoMax

ALGORITHMS: dict[str, Callable[[Context], Algorithm[Any]]] = {"ppo-max": PpoMax}


def make_algorithm(context: Context) -> Algorithm[Any]:
    """Build the algorithm that the settings name."""
    return ALGORITHMS[context.settings.ppo.algorithm](context)


__all__ = ["ALGORITHMS", "Algorithm", "Context", "Learnable", "Material", "make_algorithm"]
