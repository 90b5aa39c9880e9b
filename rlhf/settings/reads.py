"""Which algorithm reads which keys of `ppo`; what it does not read must be off."""

from collections.abc import Mapping
from typing import Any

# keys that groups of algorithms share
_CRITIC = frozenset({"critic", "gae", "value_clip"})
_PPO_LOSS = frozenset({"kl", "importance", "entropy", "surrogate_clip", "penalty", "ptx"})
# what the targets of single responses are made with
_TARGETS = frozenset({"advantage", "responses"})
_PPO = _PPO_LOSS | _CRITIC | _TARGETS
_CRITIC_FREE = frozenset({"kl", "surrogate_clip"}) | _TARGETS

# The keys of `ppo` that not every algorithm reads, by algorithm. One that has no line here, as an
# algorithm of your own may, reads them all.
READS: Mapping[str, frozenset[str]] = {
    "ppo-max": _PPO,
    "apa": _CRITIC | _TARGETS | {"apa"},
    "rto": _PPO | {"rto"},
    "process": _PPO | {"process"},
    "etpo": frozenset({"critic", "etpo", "responses"}),
    "rloo": _CRITIC_FREE,
    "grpo": _CRITIC_FREE - {"kl"} | {"grpo"},
    "reinforce-pp": _CRITIC_FREE | {"reinforce_pp"},
    # nothing is learnt; kl weighs the objective
    "dpo": frozenset({"kl"}),
    "online-dpo": frozenset({"online_dpo"}),
    "xpo": frozenset({"xpo"}),
    "aihf": _PPO | {"aihf"},
    "aihf-direct": frozenset({"aihf_direct"}),
}

# -- sections --------------------------------------------------------------------------------------

_AS_VARIANT = "(`rlhf preset laptop --variant {}` writes it)"
# An algorithm's own section, with what stands there to begin with; its key is the algorithm's name,
# with _ for -.
OWN_SECTION: Mapping[str, str] = {
    "apa": "{lambda: 0.1}",
    "rto": "{coefficient: 0.05, clamp: 0.05, score_coefficient: 1.0, shaping_only: false}",
    "process": "{rule: sum, coefficient: 1.0, score_coefficient: 0.0}",
    "etpo": "{beta: 0.01, polyak: 0.995, huber: 10.0, form: exact}",
    "grpo": "{kl_coefficient: 0.04, scale: group, loss: token}",
    "online-dpo": "{beta: 0.1, loss: sigmoid, accumulate: false, judge: null}",
    "xpo": (
        "{beta: 0.1, alpha: [1.0e-5, 5.0e-6, 0.0], second: reference, loss: sigmoid, accumulate: true, "
        "judge: null}"
    ),
    "aihf": _AS_VARIANT.format("aihf"),
    "aihf-direct": _AS_VARIANT.format("aihf-direct"),
}


def own_section(algorithm: str) -> str:
    """The key of `ppo` that an algorithm's own section has."""
    return algorithm.replace("-", "_")


# all sections of neighbours; one that is not above may be null
NEIGHBOUR_SECTIONS = frozenset({*map(own_section, OWN_SECTION), "reinforce_pp"})

# -- what goes with which algorithm ----------------------------------------------------------------

# The models of optional stages that an algorithm reads, by algorithm. Such a stage bears the name of
# its model, and so does the section of the settings that switches it on.
OPTIONAL_MODELS: Mapping[str, tuple[str, ...]] = {
    "rto": ("dpo",),
    "dpo": ("dpo",),
    "process": ("process",),
}
# the algorithms that pay no token: to them `ppo.reward` means nothing
PAYS_NO_TOKEN = frozenset({"dpo", "online-dpo", "xpo", "aihf-direct"})
# those that compare the responses to a prompt: one is not enough
COMPARES_RESPONSES = frozenset({"rloo", "grpo"})
# those with a target network that follows whole weights, which ZeRO-3 keeps in parts
NEEDS_WHOLE_WEIGHTS = frozenset({"etpo"})
# those whose critic has an unembedding of its own, which no adapter replaces
LEARNS_A_NEW_HEAD = frozenset({"etpo"})
# those that do not learn from one scored rollout an iteration: whoever compares two draws would
# measure them by two histories
WITHOUT_SCORED_ROLLOUT = frozenset({"dpo", "online-dpo", "xpo", "aihf-direct"})
# those without a loss of the single tokens that were sampled: pairs, all words of each state, or whole
# responses, each with one ratio
WITHOUT_TOKEN_WEIGHTS = WITHOUT_SCORED_ROLLOUT | {"etpo", "rloo"}
# how a key is off where that is not null
_OFF: Mapping[str, Any] = {"importance": "policy", "responses": 1}
# what an algorithm that reads it cannot do without
_NEEDED = ("critic", "gae")


def switched_off(algorithm: str) -> dict[str, Any]:
    """The keys of `ppo` that an algorithm does not read, each with the value that says it is off."""
    known = frozenset().union(*READS.values())
    unread = known - READS.get(algorithm, known)
    return {key: _OFF.get(key) for key in sorted(unread)}


def needed(algorithm: str) -> list[str]:
    """The keys of `ppo` that must not be off for an algorithm that reads them."""
    return [key for key in _NEEDED if key in READS.get(algorithm, ())]
