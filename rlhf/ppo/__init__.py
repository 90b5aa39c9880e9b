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
    from rlhf.ppo.apa import apa_loss
    from rlhf.ppo.kl import kl_estimate
    from rlhf.ppo.losses import adapted, entropy_loss, policy_kl, surrogate, value_loss
    from rlhf.ppo.moments import Moments, merge
    from rlhf.ppo.rewards import clip, final_score, kl_penalty, normalise, scale

# name -> the module that has it
_PLACES = {
    "gae": "advantages",
    "whiten": "advantages",
    "apa_loss": "apa",
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
}

__all__ = [
    "Moments",
    "adapted",
    "apa_loss",
    "clip",
    "entropy_loss",
    "final_score",
    "gae",
    "kl_estimate",
    "kl_penalty",
    "merge",
    "normalise",
    "policy_kl",
    "scale",
    "surrogate",
    "value_loss",
    "whiten",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
