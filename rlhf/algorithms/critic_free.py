"""What algorithms without a critic share: what their losses are weighed by, and what ratios show.

... -> advantages, from the rewards alone -> policy
"""

from typing import ClassVar

from torch import Tensor

from rlhf.algorithms.base import Step
from rlhf.algorithms.on_policy import OnPolicy
from rlhf.rollout.records import Experience


class CriticFree(OnPolicy):
    """The policy alone learns: no values, and no `ppo.critic`."""

    peaks: ClassVar[tuple[str, ...]] = ("first_ratio_deviation",)

    # -- for a member's loss -----------------------------------------------------------------------

    def mean_length(self, step: Step[Experience]) -> float:
        """Tokens a response of a mini-batch, over all processes: what `response_weights` asks for."""
        return self.tokens_of(step.batch) / self.settings.mini_batch

    def tally_ratio(self, ratio: Tensor, step: Step[Experience]) -> None:
        """Log how far ratios to the sampling policy are from 1, of tokens or of responses."""
        tally, clip = step.tally, self.settings.surrogate_clip
        deviation = (ratio.detach() - 1).abs()
        tally.add(ratio_mean=ratio)
        tally.peak(ratio_max_deviation=float(deviation.max()))
        if clip is not None:
            tally.add(clip_fraction=(deviation > clip).float())
        # before anything was learnt the ratio is 1: what is left is rounding
        if step.number == 0:
            tally.peak(first_ratio_deviation=float(deviation.max()))
