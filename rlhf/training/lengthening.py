"""A policy run that gets more iterations: what of it is as if it had had them from the start.

An iteration knows nothing of how many there will be, but for the learning rates: a warm-up is a share
of all steps, and a cosine ends with the last one. From where the run goes on they are those of the
new length.
"""

import logging
from collections.abc import Iterator, Sequence

from rlhf.common.shown import at_iteration
from rlhf.settings.endpoints import Endpoint
from rlhf.settings.policy import Ppo
from rlhf.settings.sampling import VllmSettings
from rlhf.settings.section import Section
from rlhf.settings.training import Optimizer

# keys of section ppo that no step depends on but for its rounding, so that a run goes on when they change
ANY_VALUE = (
    "iterations",
    "keep_checkpoint",
    "sampling.batch_size",
    *(f"sampling.vllm.{key}" for key in VllmSettings.OPERATION),
    *(f"endpoints.*.{key}" for key in Endpoint.OPERATION),
)

log = logging.getLogger("rlhf")


def schedules_of_length(section: Section, path: str = "ppo") -> Iterator[str]:
    """The optimizers in a section whose rate at a step depends on how many steps there will be."""
    for name in type(section).model_fields:
        value, key = getattr(section, name), f"{path}.{name}"
        if isinstance(value, Optimizer):
            falls = value.decay == "cosine" and value.final_fraction < 1
            if falls or value.warmup_fraction > 0:
                yield key
        elif isinstance(value, Section):
            yield from schedules_of_length(value, key)


def lengthened(lengths: Sequence[int], section: Ppo, iteration: int) -> list[int]:
    """The numbers of iterations that a run was asked for in turn, with the present one; told if new."""
    if lengths[-1] == section.iterations:
        return list(lengths)
    found = f"ppo goes on {at_iteration(iteration)}: it was asked for {lengths[-1]}, now for"
    if schedules := list(schedules_of_length(section)):
        log.warning(
            "%s %d. From here on the learning rates of %s are those of the new length (warm-up and "
            "decay are shares of it), so the numbers are not those of a run of %d from the start; "
            "metrics/ppo.json says so (lengthened_from)",
            found,
            section.iterations,
            ", ".join(schedules),
            section.iterations,
        )
    else:
        log.info("%s %d; no learning rate depends on it", found, section.iterations)
    return [*lengths, section.iterations]


def lengthened_from(lengths: Sequence[int], section: Ppo) -> dict[str, int]:
    """For the summary of a run that no run of its length from the start equals; else nothing."""
    if len(lengths) > 1 and any(schedules_of_length(section)):
        return {"lengthened_from": lengths[0]}
    return {}
