"""Choices that are possible but that the paper found in conflict, fragile or of no help: each is named, none refused."""

from rlhf.settings.policy import Ppo


def advice(ppo: Ppo) -> list[str]:
    """One sentence for each questionable choice, beginning with the keys at fault; empty for PPO-max."""
    advantage = ppo.advantage
    whitened = advantage is not None and advantage.normalise is not None
    found = {
        "ppo.kl is null: without the token-level penalty long runs collapse (fig. 7)": ppo.kl
        is None,
        "ppo.advantage.normalise with ppo.value_clip: the two conflict (fig. 14)": whitened
        and ppo.value_clip is not None,
        "ppo.advantage.normalise with ppo.reward: reparameterise one of them, not both (fig. 14)": whitened
        and (ppo.reward.normalise or ppo.reward.scale) is not None,
        "ppo.reward.scale: scaling without normalisation was of no help (fig. 6)": ppo.reward.scale
        is not None,
        "ppo.reward.clip below 0.5: a tight clip only delays the collapse (fig. 6)": (
            ppo.reward.clip or 1.0
        )
        < 0.5,
        "ppo.entropy.target: results turn over with a tenth of its value (fig. 16)": ppo.entropy
        is not None
        and ppo.entropy.target is not None,
        "ppo.initial is base: a policy that was not fine-tuned first fails (fig. 8)": ppo.initial
        == "base",
        "ppo.critic starts from sft without pre-training: its first values are noise (fig. 8)": ppo.critic.initial
        == "sft"
        and ppo.critic.pretraining_iterations == 0,
        "ppo.importance is reference: steadier, at the cost of the final reward (fig. 7)": ppo.importance
        == "reference",
    }
    return [sentence for sentence, applies in found.items() if applies]
