"""Online DPO: both responses are the policy's, and DPO's loss (or IPO's) learns from the fresh pairs."""

from rlhf.algorithms.base import POLICY
from rlhf.algorithms.online_preference import OnlinePreference
from rlhf.settings.neighbours import PairSettings
from rlhf.settings.policy import Ppo


class OnlineDpo(OnlinePreference):
    """XPO without exploration and, unless asked for, without a memory."""

    second_role = POLICY

    @classmethod
    def section(cls, ppo: Ppo) -> PairSettings:
        assert ppo.online_dpo is not None
        return ppo.online_dpo
