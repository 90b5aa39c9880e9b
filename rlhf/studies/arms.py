"""Every arm of the paper's figures, as changes to settings whose `ppo` section is PPO-max with the ptx loss.

Figures 6, 7, 14 and 16 to 19 add details to vanilla PPO one by one; figures 8, 9 and 15 start from PPO-max.
"""

from collections.abc import Mapping
from typing import Any

from rlhf.settings.variants import VARIANTS

Changes = dict[str, Any]

VANILLA = dict(VARIANTS["vanilla"])
PPO_MAX = dict(VARIANTS["ppo-max"])


def _reward(normalise: bool = False, scale: bool = False, clip: float | None = None) -> Changes:
    running = {True: "running", False: None}
    return {"ppo.reward": {"normalise": running[normalise], "scale": running[scale], "clip": clip}}


def _advantage(clip: float | None) -> Changes:
    return {"ppo.advantage": {"normalise": "mini-batch", "clip": clip}}


def _kl(coefficient: float) -> Changes:
    return {"ppo.kl": {"coefficient": coefficient, "estimator": "k1"}}


_VALUE_CLIP: Changes = {"ppo.value_clip": 0.2}
_REFERENCE: Changes = {"ppo.importance": "reference"}

ARMS: Mapping[str, Changes] = {
    "vanilla": VANILLA,
    "ppo-max": PPO_MAX,
    "ppo-ptx": dict(VARIANTS["ppo-ptx"]),
    "ppo-penalty": PPO_MAX | dict(VARIANTS["ppo-penalty"]),
    # fig. 6: score reparameterisation
    "reward-scaling": VANILLA | _reward(scale=True),
    "reward-norm-0.3": VANILLA | _reward(normalise=True, clip=0.3),
    "reward-norm-0.8": VANILLA | _reward(normalise=True, clip=0.8),
    "advantage-norm-0.5": VANILLA | _advantage(0.5),
    "advantage-norm-0.12": VANILLA | _advantage(0.12),
    # fig. 7: policy constraints
    "kl": VANILLA | _kl(0.05),
    "entropy": VANILLA | {"ppo.entropy": {"coefficient": 0.01, "target": None}},
    "importance": VANILLA | _REFERENCE,
    "kl-importance": VANILLA | _kl(0.05) | _REFERENCE,
    # fig. 8: initialisation
    "policy-from-base": PPO_MAX | {"ppo.initial": "base"},
    "critic-from-sft": PPO_MAX
    | {"ppo.critic.initial": "sft", "ppo.critic.pretraining_iterations": 0},
    "critic-pretraining": {
        key: value for key, value in VANILLA.items() if not key.startswith("ppo.critic")
    },
    # fig. 14: combined reparameterisation and clipping
    "r0.8-a0.8": VANILLA | _reward(normalise=True, clip=0.8) | _advantage(0.8),
    "r0.8-a0.8-v": VANILLA | _reward(normalise=True, clip=0.8) | _advantage(0.8) | _VALUE_CLIP,
    "r0.8-a-v": VANILLA | _reward(normalise=True, clip=0.8) | _advantage(None) | _VALUE_CLIP,
    "r0.8-v": VANILLA | _reward(normalise=True, clip=0.8) | _VALUE_CLIP,
    "scaling-a0.8-v": VANILLA
    | _reward(scale=True)
    | {"ppo.advantage": {"normalise": None, "clip": 0.8}}
    | _VALUE_CLIP,
    # fig. 15: weight of the KL penalty
    "kl-0.1": PPO_MAX | _kl(0.1),
    "kl-0.2": PPO_MAX | _kl(0.2),
    # fig. 16: entropy bonus with a target; 30 nats are above the largest entropy there is, as in the paper
    "entropy-30": VANILLA | {"ppo.entropy": {"coefficient": 0.01, "target": 30.0}},
    # fig. 17 to 19
    "surrogate-none": VANILLA | {"ppo.surrogate_clip": None},
    "surrogate-0.5": VANILLA | {"ppo.surrogate_clip": 0.5},
    "gradient-none": VANILLA | {"ppo.optimizer.max_gradient_norm": None},
    "gradient-0.5": VANILLA | {"ppo.optimizer.max_gradient_norm": 0.5},
    "gae-0.9": VANILLA | {"ppo.gae.lambda": 0.9},
    "gae-0": VANILLA | {"ppo.gae.lambda": 0.0},
    "gae-1": VANILLA | {"ppo.gae.lambda": 1.0},
}
