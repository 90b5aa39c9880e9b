"""Choices that are possible but that the paper found in conflict, fragile or of no help.

Each is named, none refused.
"""

from collections.abc import Iterator

from rlhf.settings.policy import Ppo

# where a clip of rewards counts as tight
_TIGHT = 0.5


def advice(ppo: Ppo) -> list[str]:
    """One sentence for each questionable choice, beginning with the keys at fault; empty for PPO-max."""
    # what is said of PPO's constraints does not hold for a loss of another kind
    of_ppo = _on_constraints(ppo) if ppo.algorithm == "ppo-max" else ()
    return [*of_ppo, *_on_rewards(ppo), *_on_starts(ppo)]


def _on_constraints(ppo: Ppo) -> Iterator[str]:
    if ppo.kl is None:
        yield "ppo.kl is null: without the token-level penalty long runs collapse (fig. 7)"
    if _whitened(ppo) and ppo.value_clip is not None:
        yield "ppo.advantage.normalise with ppo.value_clip: the two conflict (fig. 14)"
    if _whitened(ppo) and ppo.reward.rescales:
        yield (
            "ppo.advantage.normalise with ppo.reward: "
            "reparameterise one of them, not both (fig. 14)"
        )
    if ppo.entropy is not None and ppo.entropy.target is not None:
        yield "ppo.entropy.target: results turn over with a tenth of its value (fig. 16)"
    if ppo.importance == "reference":
        yield "ppo.importance is reference: steadier, at the cost of the final reward (fig. 7)"


def _on_rewards(ppo: Ppo) -> Iterator[str]:
    if ppo.reward.scale is not None:
        yield "ppo.reward.scale: scaling without normalisation was of no help (fig. 6)"
    if ppo.reward.clip is not None and ppo.reward.clip < _TIGHT:
        yield "ppo.reward.clip below 0.5: a tight clip only delays the collapse (fig. 6)"


def _on_starts(ppo: Ppo) -> Iterator[str]:
    if ppo.initial == "base":
        yield "ppo.initial is base: a policy that was not fine-tuned first fails (fig. 8)"
    if ppo.critic.initial == "sft" and ppo.critic.pretraining_iterations == 0:
        yield (
            "ppo.critic starts from sft without pre-training: its first values are noise (fig. 8)"
        )


def _whitened(ppo: Ppo) -> bool:
    return ppo.advantage is not None and ppo.advantage.normalise is not None
