"""The algorithms that there are, by the settings that choose them."""

from collections.abc import Mapping
from typing import Any

import pytest
from neighbours import (
    AIHF,
    AIHF_DIRECT,
    APA,
    AWR,
    DPO_POLICY,
    ETPO,
    GRPO,
    PROCESS,
    REINFORCE_PP,
    RLOO,
    RTO,
    lora,
    online_dpo,
    xpo,
)

PPO_MAX: Mapping[str, Any] = {}
WITH_CRITIC: Mapping[str, Mapping[str, Any]] = {
    "ppo-max": PPO_MAX,
    "apa": APA,
    "rto": RTO,
    "process": PROCESS,
}
CRITIC_FREE: Mapping[str, Mapping[str, Any]] = {
    "rloo": RLOO,
    "grpo": GRPO,
    "reinforce-pp": REINFORCE_PP,
}
MEMBERS: Mapping[str, Mapping[str, Any]] = {**WITH_CRITIC, **CRITIC_FREE, "etpo": ETPO}
# what learns are adapters, of the policy and of the critic
LORA: Mapping[str, Any] = lora("ppo")
# another loss of a member, which another name would not tell
FORMS: Mapping[str, Mapping[str, Any]] = {
    "awr": AWR,
    "grpo-sequence": {
        **GRPO,
        "ppo.grpo": {"kl_coefficient": 0.04, "scale": "batch", "loss": "sequence"},
    },
    "reinforce-pp-baseline": {
        **REINFORCE_PP,
        "ppo.reinforce_pp": {"baseline": "group"},
        "ppo.responses": 2,
    },
    "ppo-max-lora": LORA,
}
_ALL = {**MEMBERS, **FORMS}
# from demonstrations and pairs too
OF_FEEDBACK: Mapping[str, Mapping[str, Any]] = {"aihf": AIHF, "aihf-direct": AIHF_DIRECT}
# learn from pairs of their own
OF_PAIRS: Mapping[str, Mapping[str, Any]] = {
    "xpo": xpo(),
    "xpo-of-policy": xpo(second="policy"),
    "online-dpo": online_dpo(),
}
# all that there are: one of these learns nothing
ALL: Mapping[str, Mapping[str, Any]] = {
    **MEMBERS,
    **OF_FEEDBACK,
    **OF_PAIRS,
    "dpo": DPO_POLICY,
}

each_member = pytest.mark.parametrize("member", _ALL.values(), ids=_ALL)
each_member_with_critic = pytest.mark.parametrize("member", WITH_CRITIC.values(), ids=WITH_CRITIC)
_CRITICS = {**WITH_CRITIC, "etpo": ETPO, "ppo-max-lora": LORA}
# every model that learns, with the member that it belongs to
each_learner = pytest.mark.parametrize(
    ("member", "role"),
    [(member, "policy") for member in _ALL.values()]
    + [(member, "critic") for member in _CRITICS.values()],
    ids=[f"{name}-policy" for name in _ALL] + [f"{name}-critic" for name in _CRITICS],
)
each_of_pairs = pytest.mark.parametrize("member", OF_PAIRS.values(), ids=OF_PAIRS)
