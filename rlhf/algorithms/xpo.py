"""XPO, exploratory preference optimisation (arXiv 2405.21046).

DPO's loss on all pairs so far, and + alpha log pi of the second response, which makes that one less
likely. The second response is the reference's (the paper's Algorithm 1) or the policy's (the form of
its experiments). Both are as restated elsewhere; `rlhf/ppo/xpo.py` says where.
"""

from collections.abc import Mapping

from torch import Tensor

from rlhf.algorithms.base import POLICY
from rlhf.algorithms.online_preference import OnlinePreference
from rlhf.algorithms.scored_policy import REFERENCE
from rlhf.ppo.xpo import alpha_at, bounded_exploration_term, exploration_term
from rlhf.settings.neighbours import XpoSettings
from rlhf.settings.policy import Ppo


class Xpo(OnlinePreference):
    """Pairs of the policy's response and a second one; alpha may change from iteration to iteration."""

    @classmethod
    def section(cls, ppo: Ppo) -> XpoSettings:
        assert ppo.xpo is not None
        return ppo.xpo

    @property
    def xpo(self) -> XpoSettings:
        """Its own settings."""
        return self.section(self.settings)

    @property
    def second_role(self) -> str:
        return REFERENCE if self.xpo.second == "reference" else POLICY

    def exploration(self, iteration: int, second: Tensor, reference: Tensor) -> Tensor:
        """+ alpha log pi(y~)."""
        alpha = self.alpha(iteration)
        if self.xpo.second == "reference":
            return exploration_term(second, alpha)
        return bounded_exploration_term(second, reference, alpha)

    def before_learning(self, iteration: int) -> Mapping[str, float]:
        return {"alpha": self.alpha(iteration)}

    def alpha(self, iteration: int) -> float:
        """The weight of the exploration term in an iteration."""
        return alpha_at(self.xpo.alpha, iteration)
