"""What scored the responses, what judged them and what the policy began as, in words."""

from pathlib import Path

from rlhf.settings.rewards import RewardSource
from rlhf.settings.schema import Settings
from rlhf.settings.teachers import judging_rewards

_OURS = "model:reward"
# whose iterations learn from pairs; of the others the stages before do, if any
_LEARN_FROM_PAIRS = ("aihf", "aihf-direct")
_INITIAL = {"sft": "the SFT model", "base": "the base model"}


def score_title(settings: Settings) -> str:
    """The title of the curve of scores."""
    rewards = settings.ppo.rewards
    if len(rewards) > 1:
        return "Sum of the rewards"
    return (
        "Score of the reward model"
        if rewards[0].reward == _OURS
        else f"Score by {scorers(settings)}"
    )


def scorers(settings: Settings) -> str:
    """The rewards of the policy, with their weights."""
    return " + ".join(map(_weighted, settings.ppo.rewards))


def _weighted(source: RewardSource) -> str:
    name = "the reward model" if source.reward == _OURS else source.reward
    return name if source.weight == 1 else f"{source.weight:g} × {name}"


def use_of_reward_model(settings: Settings) -> str:
    """What our own reward model is to the policy."""
    named = [source.reward for source in settings.ppo.rewards]
    if judge := settings.ppo.pair_judge:
        return (
            f"The policy learns from pairs that {judge} ranks; "
            f"{scorers(settings)} chooses the best iteration."
        )
    if _OURS not in named:
        return f"The policy is not trained against it: {scorers(settings)} scores its responses."
    return "PPO is trained against it" + (f": {scorers(settings)}." if len(named) > 1 else ".")


def use_of_gold_model(settings: Settings, root: Path) -> str:
    """What our own gold model is to the evaluation, and to the policy."""
    section = settings.evaluate
    if "gold" not in section.judges:
        return "It is not among the judges of this run."
    if section.gold is not None:
        return f"It did not judge: {section.gold} did in its place (evaluate.gold)."
    if found := judging_rewards(settings, root):
        return f"It judges, and the policy is trained against it: {', '.join(found)}."
    return "It only judges: nothing is trained against it."


def gold_from_elsewhere(settings: Settings) -> str | None:
    """The model of others that the judge gold is; None where it is ours, or none judges."""
    section = settings.evaluate
    return section.gold if "gold" in section.judges else None


def learns_from_preferences(settings: Settings) -> bool:
    """Whether any stage does."""
    stages = (settings.reward, settings.gold, settings.dpo)
    return any(stages) or settings.ppo.algorithm in _LEARN_FROM_PAIRS


def first_policy(settings: Settings) -> str:
    """The model that the policy is at iteration 0."""
    if settings.ppo.algorithm == "dpo":
        return "the model of stage dpo"
    return _INITIAL[settings.ppo.initial]


def words_of(settings: Settings, root: Path) -> dict[str, object]:
    """All of it, as the templates of the page name it."""
    return {
        "scorers": scorers(settings),
        "use_of_reward_model": use_of_reward_model(settings),
        "use_of_gold_model": use_of_gold_model(settings, root),
        "gold_from_elsewhere": gold_from_elsewhere(settings),
        "learns_from_preferences": learns_from_preferences(settings),
        "first_policy": first_policy(settings),
        "judging_rewards": judging_rewards(settings, root),
    }
