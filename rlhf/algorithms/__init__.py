"""Algorithms of the policy loop: each composes the details of `rlhf.ppo`; a new one is a file and a line here."""

from collections.abc import Callable

from rlhf.algorithms.base import Algorithm, Context, Material
from rlhf.algorithms.ppo_max import PpoMax

ALGORITHMS: dict[str, Callable[[Context], Algorithm]] = {"ppo-max": PpoMax}


def make_algorithm(context: Context) -> Algorithm:
    """Build the algorithm that the settings name."""
    return ALGORITHMS[context.settings.ppo.algorithm](context)


__all__ = ["ALGORITHMS", "Algorithm", "Context", "Material", "make_algorithm"]
