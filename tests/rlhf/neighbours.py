"""Settings that choose each neighbour of PPO-max, as changes of the tiny ones."""

from collections.abc import Mapping
from typing import Any

from rlhf.settings.reads import switched_off

# the settings of algorithm apa: no KL penalty, no ratio, no plain text, whitened advantages
APA: Mapping[str, Any] = {
    "ppo.algorithm": "apa",
    "ppo.apa": {"lambda": 0.1},
    "ppo.kl": None,
    "ppo.surrogate_clip": None,
    "ppo.ptx": None,
    "ppo.advantage": {"normalise": "mini-batch", "clip": None},
}

# what an iteration of aihf and of aihf-direct takes
_ROWS = {"demonstration_weight": 1.0, "pair_weight": 1.0, "demonstrations": 4, "pairs": 6}
# reward and policy in turns; the policy half is PPO-max's, without plain text
AIHF: Mapping[str, Any] = {
    "ppo.algorithm": "aihf",
    "ppo.ptx": None,
    "ppo.aihf": {
        **_ROWS,
        "form": "logistic",
        "beta": None,
        "reward_epochs": 1,
        "optimizer": {
            "learning_rate": 1e-3,
            "warmup_fraction": 0.0,
            "decay": "constant",
            "final_fraction": 1.0,
            "beta1": 0.9,
            "beta2": 0.95,
            # steps along noise, as with 1e-8, would differ where sums are added up in another order
            "epsilon": 1e-4,
            "weight_decay": 0.0,
            "max_gradient_norm": 1.0,
        },
    },
}
# the policy alone, by maximum likelihood and DPO
AIHF_DIRECT: Mapping[str, Any] = {
    "ppo.algorithm": "aihf-direct",
    "ppo.aihf_direct": {**_ROWS, "beta": 0.1},
    **{f"ppo.{key}": off for key, off in switched_off("aihf-direct").items()},
}

# with a loss that weights log p: exp(A / lambda) of whitened advantages wants lambda 1
AWR: Mapping[str, Any] = {**APA, "ppo.apa": {"lambda": 1.0, "loss": "awr"}}
_CRITIC_FREE: Mapping[str, Any] = {
    "ppo.critic": None,
    "ppo.gae": None,
    "ppo.value_clip": None,
    "ppo.ptx": None,
}
RLOO: Mapping[str, Any] = {"ppo.algorithm": "rloo", "ppo.responses": 2, **_CRITIC_FREE}
GRPO: Mapping[str, Any] = {
    "ppo.algorithm": "grpo",
    "ppo.responses": 2,
    "ppo.grpo": {"kl_coefficient": 0.04, "scale": "group", "loss": "token"},
    "ppo.kl": None,
    "ppo.reward": {"normalise": None, "scale": None, "clip": None},
    **_CRITIC_FREE,
}
REINFORCE_PP: Mapping[str, Any] = {"ppo.algorithm": "reinforce-pp", **_CRITIC_FREE}
# what an algorithm that learns from pairs does not read
_NOTHING_BUT_PAIRS: Mapping[str, Any] = {
    f"ppo.{key}": None for key in ("critic", "gae", "value_clip", "kl", "surrogate_clip", "ptx")
}
# it has a critic of action values, and nothing of PPO's loss
ETPO: Mapping[str, Any] = {
    "ppo.algorithm": "etpo",
    "ppo.etpo": {"beta": 0.1, "polyak": 0.9, "huber": 10.0, "form": "exact"},
    **{f"ppo.{key}": None for key in ("kl", "gae", "surrogate_clip", "value_clip", "ptx")},
}


def xpo(**changes: Any) -> dict[str, Any]:
    """The settings of algorithm xpo, with keys of its section changed."""
    section = {
        "beta": 0.1,
        "alpha": [1e-5, 5e-6, 0.0],
        "second": "reference",
        "loss": "sigmoid",
        "accumulate": True,
    }
    own = {"ppo.algorithm": "xpo", "ppo.xpo": {**section, **changes}}
    return {**own, **_NOTHING_BUT_PAIRS}


def online_dpo(**changes: Any) -> dict[str, Any]:
    """The settings of algorithm online-dpo, with keys of its section changed."""
    section = {"beta": 0.1, "loss": "sigmoid", "accumulate": False}
    own = {"ppo.algorithm": "online-dpo", "ppo.online_dpo": {**section, **changes}}
    return {**own, **_NOTHING_BUT_PAIRS}


def lora(section: str, **changes: Any) -> dict[str, Any]:
    """Adapters in a section, with keys of theirs changed."""
    keys = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "target_modules": None}
    return {f"{section}.lora": {**keys, **changes}}


# the section of stage dpo: short steps, so that there are several
DPO: Mapping[str, Any] = {
    "dpo": {
        "beta": 0.3,
        "loss": "sigmoid",
        "label_smoothing": 0.0,
        "epochs": 1.0,
        "max_steps": None,
        "batch_tokens": 80,
        "micro_batch_tokens": 256,
        "min_pairs": 4,
        "max_pairs": 128,
        "balance_kinds": False,
        "trainable_layers": None,
        "evaluate_every": 2,
        "checkpoint_every": 3,
        "optimizer": {
            "learning_rate": 1e-3,
            "warmup_fraction": 0.1,
            "decay": "cosine",
            "final_fraction": 0.1,
            "beta1": 0.9,
            "beta2": 0.95,
            "epsilon": 1e-8,
            "weight_decay": 0.0,
            "max_gradient_norm": 1.0,
        },
    }
}
# the policy is the model of stage dpo
DPO_POLICY: Mapping[str, Any] = {
    **DPO,
    "ppo.algorithm": "dpo",
    "ppo.surrogate_clip": None,
    "ppo.value_clip": None,
    "ppo.critic": None,
    "ppo.gae": None,
    "ppo.ptx": None,
}
# PPO-max with the DPO model's reward at each token
RTO: Mapping[str, Any] = {
    **DPO,
    "ppo.algorithm": "rto",
    "ppo.rto": {
        "coefficient": 0.05,
        "clamp": 0.05,
        "score_coefficient": 1.0,
        "shaping_only": False,
    },
    "ppo.ptx": None,
}

# the section of stage process
PROCESS_MODEL: Mapping[str, Any] = {
    "data.steps": ["path:steps"],
    "process": {
        "initial": "sft",
        "epochs": 3.0,
        "max_steps": None,
        "batch_tokens": 256,
        "micro_batch_tokens": 256,
        "optimizer": {
            "learning_rate": 3e-3,
            "warmup_fraction": 0.1,
            "decay": "cosine",
            "final_fraction": 0.1,
            "beta1": 0.9,
            "beta2": 0.95,
            "epsilon": 1e-8,
            "weight_decay": 0.0,
            "max_gradient_norm": 1.0,
        },
        "trainable_layers": None,
        "evaluate_every": 4,
        "checkpoint_every": 4,
    },
}
# PPO-max paid by what the process reward model says of the steps
PROCESS: Mapping[str, Any] = {
    **PROCESS_MODEL,
    "ppo.algorithm": "process",
    "ppo.process": {"rule": "sum", "coefficient": 1.0, "score_coefficient": 0.0},
    "ppo.ptx": None,
}
