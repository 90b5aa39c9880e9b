"""What a setting can choose by name. One line each: the name, and where it is made.

A value is `module:name`; it is imported when it is asked for, so a run loads only what it uses,
and a new line makes no finished stage stale. The README of each folder shows how to add one.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

# ppo.algorithm
ALGORITHMS: dict[str, str] = {
    "ppo-max": "rlhf.algorithms.ppo_max:PpoMax",
    "apa": "rlhf.algorithms.apa:Apa",
    "dpo": "rlhf.algorithms.dpo:DpoPolicy",
    "rto": "rlhf.algorithms.rto:Rto",
    "rloo": "rlhf.algorithms.rloo:Rloo",
    "grpo": "rlhf.algorithms.grpo:Grpo",
    "reinforce-pp": "rlhf.algorithms.reinforce_plus_plus:ReinforcePlusPlus",
    "xpo": "rlhf.algorithms.xpo:Xpo",
    "online-dpo": "rlhf.algorithms.online_dpo:OnlineDpo",
    "aihf": "rlhf.algorithms.aihf:Aihf",
    "aihf-direct": "rlhf.algorithms.aihf_direct:AihfDirect",
    "process": "rlhf.algorithms.process:ProcessSupervision",
    "etpo": "rlhf.algorithms.etpo:Etpo",
}

# ppo.rewards, by the kind of their address: what scores a response
REWARDS: dict[str, str] = {
    "model": "rlhf.rewards.model:ModelReward",
    "hf": "rlhf.rewards.hf:HfReward",
    "http": "rlhf.rewards.http:HttpReward",
    "python": "rlhf.rewards.python:PythonReward",
    "missing-end": "rlhf.rewards.rules:MissingEndPenalty",
    "overlong": "rlhf.rewards.rules:OverlongPenalty",
    "repetition": "rlhf.rewards.rules:RepetitionPenalty",
    "format": "rlhf.rewards.rules:FormatReward",
    "exact": "rlhf.rewards.rules:ExactAnswer",
}

# ppo.sampling.sampler
SAMPLERS: dict[str, str] = {
    "local": "rlhf.rollout.local:LocalSampler",
    "vllm": "rlhf.rollout.vllm:VllmSampler",
}

# engine.kind
ENGINES: dict[str, str] = {
    "torch": "rlhf.engine.single:TorchEngine",
    "deepspeed": "rlhf.engine.zero:ZeroEngine",
}

# evaluate.judges, by the kind of their address
JUDGES: dict[str, str] = {
    "gold": "rlhf.evaluation.judges.gold:GoldJudge",
    "rules": "rlhf.evaluation.judges.rules:RuleJudge",
    "api": "rlhf.evaluation.judges.api:ApiJudge",
    "people": "rlhf.evaluation.judges.people:PeopleJudge",
}

# model.source and the lists of `data`, by the kind of their address
SOURCES: dict[str, str] = {
    "wheel": "rlhf.data.sources.wheel:WheelSource",
    "hub": "rlhf.data.sources.hub:HubSource",
    "path": "rlhf.data.sources.path:PathSource",
    "starter": "rlhf.data.sources.starter:StarterSource",
    "random": "rlhf.data.sources.random_model:RandomSource",
    "world": "rlhf.data.sources.world:WorldSource",
    "planted": "rlhf.data.sources.planted:PlantedSource",
    "additions": "rlhf.data.sources.additions:AdditionsSource",
}


def find(table: Mapping[str, str], name: str) -> Any:
    """Import what a table has under `name`; raises KeyError for a name that it does not have."""
    module, _, attribute = table[name].partition(":")
    return getattr(import_module(module), attribute)


def module_of(table: Mapping[str, str], name: str) -> str:
    """The module that makes what a table has under `name`."""
    return table[name].partition(":")[0]
