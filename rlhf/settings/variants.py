"""Named algorithms, as changes to a preset, whose `ppo` section is PPO-max with the ptx loss."""

from collections.abc import Mapping
from typing import Any

from rlhf.settings.policy import switched_off

VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "ppo-ptx": {"ppo.ptx": {"coefficient": 0.1, "windows": 1}},
    "ppo-max": {"ppo.ptx": None},
    "ppo-penalty": {
        "ppo.surrogate_clip": None,
        "ppo.penalty": {"coefficient": 1.0, "target": 0.01},
    },
    # None of the constraints: no KL penalty, no reparameterised or clipped rewards, no clipped
    # values, no pre-trained critic.
    "vanilla": {
        "ppo.kl": None,
        "ppo.reward": {"normalise": None, "scale": None, "clip": None},
        "ppo.value_clip": None,
        "ppo.critic.pretraining_iterations": 0,
        "ppo.ptx": None,
    },
    # The loss holds the policy to the reference by itself. lambda is that of the authors' code, for
    # whitened advantages.
    "apa": {
        "ppo.algorithm": "apa",
        "ppo.apa": {"lambda": 0.1},
        "ppo.advantage": {"normalise": "mini-batch", "clip": None},
        **{f"ppo.{key}": off for key, off in switched_off("apa").items()},
    },
}
