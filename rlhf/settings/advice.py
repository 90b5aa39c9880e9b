"""Choices that are possible but that the paper found in conflict, fragile or of no help.

Each is named, none refused.
"""

from collections.abc import Iterator

from rlhf.settings.policy import Ppo
from rlhf.settings.reads import PAYS_NO_TOKEN

# where a clip of rewards counts as tight
_TIGHT = 0.5
# whose policy learns by PPO
_OF_PPO = ("ppo-max", "rto", "process", "aihf")


def advice(ppo: Ppo) -> list[str]:
    """One sentence for each questionable choice, beginning with the keys at fault; empty for PPO-max."""
    # what is said of PPO's constraints does not hold for a loss of another kind
    of_ppo = _on_constraints(ppo) if ppo.algorithm in _OF_PPO else ()
    of_neighbours = [*_on_exploration(ppo), *_on_etpo(ppo), *_on_awr(ppo)]
    of_rewards = () if ppo.algorithm in PAYS_NO_TOKEN else _on_rewards(ppo)
    return [*of_ppo, *of_neighbours, *of_rewards, *_on_starts(ppo)]


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


def _on_exploration(ppo: Ppo) -> Iterator[str]:
    # the loss of a pair pulls with beta sigma(-h), which is beta / 2 at the start; IPO's has no bound
    xpo = ppo.xpo
    if xpo is not None and xpo.loss == "sigmoid" and max(xpo.alpha) > xpo.beta / 2:
        yield (
            "ppo.xpo.alpha above half of ppo.xpo.beta: exploration outweighs what a pair prefers, "
            "and a second response that wins becomes less likely"
        )


def _on_awr(ppo: Ppo) -> Iterator[str]:
    apa = ppo.apa
    if apa is not None and apa.loss == "awr" and apa.lam < 1:
        yield (
            "ppo.apa.lambda below 1 with ppo.apa.loss awr: a response weighs exp(A / lambda), and few "
            "of them count; 1 is what whitened advantages want"
        )


def _on_rewards(ppo: Ppo) -> Iterator[str]:
    if ppo.reward.scale is not None:
        yield "ppo.reward.scale: scaling without normalisation was of no help (fig. 6)"
    if ppo.reward.clip is not None and ppo.reward.clip < _TIGHT:
        yield "ppo.reward.clip below 0.5: a tight clip only delays the collapse (fig. 6)"


def _on_starts(ppo: Ppo) -> Iterator[str]:
    # the policy of `dpo` is a model that is trained already
    if ppo.initial == "base" and ppo.algorithm != "dpo":
        yield "ppo.initial is base: a policy that was not fine-tuned first fails (fig. 8)"
    critic = ppo.critic
    # one of action values starts at 0, whatever its blocks
    if critic is None or ppo.etpo is not None:
        return
    if critic.initial == "sft" and critic.pretraining_iterations == 0:
        yield (
            "ppo.critic starts from sft without pre-training: its first values are noise (fig. 8)"
        )


def _on_etpo(ppo: Ppo) -> Iterator[str]:
    if ppo.etpo is None:
        return
    if ppo.etpo.form == "published":
        yield "ppo.etpo.form is published: a control, whose policy learns nothing from the critic"
    if ppo.critic is not None and ppo.critic.pretraining_iterations == 0:
        yield (
            "ppo.critic.pretraining_iterations is 0: "
            "Q is 0 at first, which only draws the policy to the reference"
        )


def _whitened(ppo: Ppo) -> bool:
    return ppo.advantage is not None and ppo.advantage.normalise is not None
