"""The details of PPO, and its neighbours' formulas, as pure functions.

One place each; state goes in and comes out, sums over processes are passed in.

    import rlhf.ppo as ppo
    advantages, returns = ppo.gae(rewards, values, mask, gamma=1.0, lam=0.95)

Names are imported when they are asked for: code that uses one file does not run the others.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlhf.ppo.advantages import gae, whiten
    from rlhf.ppo.aihf import bradley_terry_loss, demonstration_loss
    from rlhf.ppo.apa import apa_loss, awr_loss
    from rlhf.ppo.dpo import dpo_loss, implicit_rewards, ipo_loss
    from rlhf.ppo.etpo import (
        etpo_critic_loss,
        etpo_policy_loss,
        etpo_published_loss,
        exact_kl,
        q_spread,
        soft_targets,
        soft_values,
    )
    from rlhf.ppo.groups import (
        group_advantages,
        group_mean,
        leave_one_out,
        response_weights,
        reward_to_go,
        sequence_surrogate,
    )
    from rlhf.ppo.importance import truncated_weights
    from rlhf.ppo.kl import kl_estimate
    from rlhf.ppo.losses import adapted, entropy_loss, policy_kl, surrogate, value_loss
    from rlhf.ppo.moments import Moments, merge
    from rlhf.ppo.rewards import (
        clip,
        final_score,
        kl_penalty,
        normalise,
        scale,
    )
    from rlhf.ppo.rto import dpo_reward, return_correction
    from rlhf.ppo.steps import best_of_n, solution_scores, step_loss, step_rewards
    from rlhf.ppo.xpo import alpha_at, bounded_exploration_term, exploration_term

# name -> the module that has it
_PLACES = {
    "gae": "advantages",
    "whiten": "advantages",
    "bradley_terry_loss": "aihf",
    "demonstration_loss": "aihf",
    "apa_loss": "apa",
    "awr_loss": "apa",
    "dpo_loss": "dpo",
    "implicit_rewards": "dpo",
    "ipo_loss": "dpo",
    "etpo_critic_loss": "etpo",
    "etpo_policy_loss": "etpo",
    "etpo_published_loss": "etpo",
    "exact_kl": "etpo",
    "q_spread": "etpo",
    "soft_targets": "etpo",
    "soft_values": "etpo",
    "group_advantages": "groups",
    "group_mean": "groups",
    "leave_one_out": "groups",
    "response_weights": "groups",
    "reward_to_go": "groups",
    "sequence_surrogate": "groups",
    "truncated_weights": "importance",
    "kl_estimate": "kl",
    "adapted": "losses",
    "entropy_loss": "losses",
    "policy_kl": "losses",
    "surrogate": "losses",
    "value_loss": "losses",
    "Moments": "moments",
    "merge": "moments",
    "clip": "rewards",
    "final_score": "rewards",
    "kl_penalty": "rewards",
    "normalise": "rewards",
    "scale": "rewards",
    "dpo_reward": "rto",
    "return_correction": "rto",
    "best_of_n": "steps",
    "solution_scores": "steps",
    "step_loss": "steps",
    "step_rewards": "steps",
    "alpha_at": "xpo",
    "bounded_exploration_term": "xpo",
    "exploration_term": "xpo",
}

__all__ = [
    "Moments",
    "adapted",
    "alpha_at",
    "apa_loss",
    "awr_loss",
    "best_of_n",
    "bounded_exploration_term",
    "bradley_terry_loss",
    "clip",
    "demonstration_loss",
    "dpo_loss",
    "dpo_reward",
    "entropy_loss",
    "etpo_critic_loss",
    "etpo_policy_loss",
    "etpo_published_loss",
    "exact_kl",
    "exploration_term",
    "final_score",
    "gae",
    "group_advantages",
    "group_mean",
    "implicit_rewards",
    "ipo_loss",
    "kl_estimate",
    "kl_penalty",
    "leave_one_out",
    "merge",
    "normalise",
    "policy_kl",
    "q_spread",
    "response_weights",
    "return_correction",
    "reward_to_go",
    "scale",
    "sequence_surrogate",
    "soft_targets",
    "soft_values",
    "solution_scores",
    "step_loss",
    "step_rewards",
    "surrogate",
    "truncated_weights",
    "value_loss",
    "whiten",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
