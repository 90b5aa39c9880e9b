"""Named algorithms, and training by adapters, as changes to a preset: PPO-max with the ptx loss."""

from collections.abc import Callable, Mapping
from typing import Any

from rlhf.settings.reads import NEIGHBOUR_SECTIONS, switched_off


def _off(algorithm: str) -> dict[str, Any]:
    """The keys that an algorithm does not read, switched off.

    Sections of neighbours are off in every preset: naming them would only lengthen the file.
    """
    keys = switched_off(algorithm).items()
    return {f"ppo.{key}": off for key, off in keys if key not in NEIGHBOUR_SECTIONS}


def dpo_section(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section `dpo` for a settings file: batches, layers and optimiser of its reward model.

    beta 0.1 is that of the papers. The learning rate is the smaller of the reward model's and the
    policy's: 5e-7 for 7B, as RTO's authors have it for DPO. A model of 135M hardly moves at that, and
    gets a rate of its own size. A section that is there already stays.
    """
    if content["dpo"] is not None:
        there: Mapping[str, Any] = content["dpo"]
        return there
    reward, policy = content["reward"], content["ppo"]
    rates = [float(section["optimizer"]["learning_rate"]) for section in (reward, policy)]
    taken = (
        "epochs",
        "max_steps",
        "batch_tokens",
        "micro_batch_tokens",
        "min_pairs",
        "max_pairs",
        "balance_kinds",
        "trainable_layers",
        "evaluate_every",
        "checkpoint_every",
    )
    return {
        "beta": 0.1,
        "loss": "sigmoid",
        "label_smoothing": 0.0,
        **{key: reward[key] for key in taken},
        "optimizer": {**reward["optimizer"], "learning_rate": min(rates)},
    }


def process_section(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section `process` for a settings file: batches, layers and optimiser of its reward model.

    A section that is there already stays.
    """
    if content["process"] is not None:
        there: Mapping[str, Any] = content["process"]
        return there
    taken = (
        "epochs",
        "max_steps",
        "batch_tokens",
        "micro_batch_tokens",
        "trainable_layers",
        "evaluate_every",
        "checkpoint_every",
        "optimizer",
    )
    return {"initial": "sft", **{key: content["reward"][key] for key in taken}}


def steps_sources(content: Mapping[str, Any]) -> list[str]:
    """What `data.steps` names; else a path of the user's, for no data of that kind is shipped."""
    return list(content["data"]["steps"]) or ["path:${RLHF_STEPS}"]


# adapters want about ten times the rate of the weights that they stand for: https://thinkingmachines.ai/blog/lora
_RATE_OF_ADAPTERS = 10


def adapter_rate(*path: str) -> Callable[[Mapping[str, Any]], float]:
    """The learning rate of the optimiser at a place of a settings file, as adapters want it."""

    def rate(content: Mapping[str, Any]) -> float:
        for name in path:
            content = content[name]
        return _RATE_OF_ADAPTERS * float(content["optimizer"]["learning_rate"])

    return rate


_LORA = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": None}
_LORA_TO_THE_POLICY: Mapping[str, Any] = {
    "sft.lora": _LORA,
    "sft.optimizer.learning_rate": adapter_rate("sft"),
    "reward.lora": _LORA,
    "reward.optimizer.learning_rate": adapter_rate("reward"),
    "ppo.lora": _LORA,
    "ppo.optimizer.learning_rate": adapter_rate("ppo"),
    "ppo.critic.optimizer.learning_rate": adapter_rate("ppo", "critic"),
}
_DEMONSTRATIONS_AND_PAIRS = {
    "demonstration_weight": 1.0,
    "pair_weight": 1.0,
    "demonstrations": 8,
    "pairs": 8,
}

# dotted key -> its value, or a function that makes it of the settings file's content
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "ppo-ptx": {"ppo.ptx": {"coefficient": 0.1, "windows": 1}},
    "ppo-max": {"ppo.ptx": None},
    "ppo-penalty": {
        "ppo.surrogate_clip": None,
        "ppo.penalty": {"coefficient": 1.0, "target": 0.01},
    },
    # Adapters in all that leads to the policy. The gold judge is trained as ever: it is to be the same.
    "lora": _LORA_TO_THE_POLICY,
    # And the gold judge too, where all weights of a model have no room to learn: 7B on two cards.
    "lora-all": {
        **_LORA_TO_THE_POLICY,
        "gold.lora": _LORA,
        "gold.optimizer.learning_rate": adapter_rate("gold"),
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
        **_off("apa"),
    },
    # The control of APA's paper. Its weights are not bounded: lambda 0.1 would make them explode.
    "awr": {
        "ppo.algorithm": "apa",
        "ppo.apa": {"lambda": 1.0, "loss": "awr"},
        "ppo.advantage": {"normalise": "mini-batch", "clip": None},
        **_off("apa"),
    },
    # Four responses to a prompt, so a quarter of the prompts: an iteration costs what it did.
    "rloo": {
        "ppo.algorithm": "rloo",
        "ppo.responses": 4,
        "ppo.advantage": None,
        **_off("rloo"),
    },
    "grpo": {
        "ppo.algorithm": "grpo",
        "ppo.responses": 4,
        "ppo.grpo": {"kl_coefficient": 0.04, "scale": "group", "loss": "token"},
        # a group's scores are rescaled by their own mean and std
        "ppo.reward": {"normalise": None, "scale": None, "clip": None},
        "ppo.advantage": None,
        **_off("grpo"),
    },
    "reinforce-pp": {
        "ppo.algorithm": "reinforce-pp",
        "ppo.advantage": None,
        **_off("reinforce-pp"),
    },
    # The policy is the model of stage dpo. One iteration, in which nothing is learnt: it is validated.
    "dpo": {
        "dpo": dpo_section,
        "ppo.algorithm": "dpo",
        "ppo.iterations": 1,
        **_off("dpo"),
    },
    # beta_1, beta_3 and the clamp are those of the authors' code; beta_2 stays the preset's
    # ppo.kl.coefficient. As there, no plain text.
    "rto": {
        "dpo": dpo_section,
        "ppo.algorithm": "rto",
        "ppo.rto": {
            "coefficient": 0.05,
            "clamp": 0.05,
            "score_coefficient": 1.0,
            "shaping_only": False,
        },
        "ppo.ptx": None,
    },
    # Pairs of the policy's responses with the reference's, all of them so far: steps grow with the
    # iterations. What a pair's loss does not read is off.
    "xpo": {
        "ppo.algorithm": "xpo",
        **_off("xpo"),
        "ppo.xpo": {
            "beta": 0.1,
            "alpha": [1e-5, 5e-6, 0.0],
            "second": "reference",
            "loss": "sigmoid",
            "accumulate": True,
            "judge": None,
        },
    },
    "online-dpo": {
        "ppo.algorithm": "online-dpo",
        **_off("online-dpo"),
        "ppo.online_dpo": {"beta": 0.1, "loss": "sigmoid", "accumulate": False, "judge": None},
    },
    # Reward and policy in turns. A reward as bold as its own stage would leave the critic behind.
    "aihf": {
        "ppo.algorithm": "aihf",
        # the one reward that can go on learning
        "ppo.rewards": ["model:reward"],
        "ppo.ptx": None,
        "ppo.aihf": {
            "form": "logistic",
            "beta": None,
            **_DEMONSTRATIONS_AND_PAIRS,
            "reward_epochs": 1,
            "optimizer": {
                "learning_rate": 1.0e-5,
                "warmup_fraction": 0.1,
                "decay": "constant",
                "final_fraction": 1.0,
                "beta1": 0.9,
                "beta2": 0.95,
                "epsilon": 1.0e-8,
                "weight_decay": 0.0,
                "max_gradient_norm": 1.0,
            },
        },
    },
    # Without a reward model: the policy alone, by maximum likelihood and DPO.
    "aihf-direct": {
        "ppo.algorithm": "aihf-direct",
        "ppo.aihf_direct": {"beta": 0.1, **_DEMONSTRATIONS_AND_PAIRS},
        **_off("aihf-direct"),
    },
    # The scores of steps in place of the score at the end, as Math-Shepherd describes it.
    "process": {
        "data.steps": steps_sources,
        "process": process_section,
        "ppo.algorithm": "process",
        "ppo.process": {"rule": "sum", "coefficient": 1.0, "score_coefficient": 0.0},
    },
    # beta bears on targets and policy alike. The settings are those of the authors' code, whose loss
    # is not ours.
    "etpo": {
        "ppo.algorithm": "etpo",
        "ppo.etpo": {"beta": 0.01, "polyak": 0.995, "huber": 10.0, "form": "exact"},
        # its target network is written to
        "engine.frozen_models": "whole",
        **_off("etpo"),
    },
}
