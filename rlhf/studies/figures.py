"""The studies: which arms stand side by side, and what was found; most are figures of the paper."""

from collections.abc import Sequence

from rlhf.common.errors import RlhfError
from rlhf.studies.claims import START, Claim
from rlhf.studies.neighbours import NEIGHBOURS
from rlhf.studies.search import SEARCHES
from rlhf.studies.study import Study

# measured by what an arm ended with
_ENDS = ("reward_last", "kl_last", "gold_last")


def _little_effect(arm: str) -> tuple[Claim, ...]:
    text = f"{arm}: little effect"
    return tuple(Claim(text, metric, arm, "vanilla", "same") for metric in _ENDS)


_OF_THE_PAPER: dict[str, Study] = {
    "fig4": Study(
        "Vanilla PPO collapses (fig. 4 and 13)",
        ("vanilla",),
        (
            Claim("the reward rises", "reward_last", "vanilla", START, "higher"),
            Claim("while judged quality falls", "gold_last", "vanilla", START, "lower"),
            Claim(
                "perplexity on own responses falls", "perplexity_last", "vanilla", START, "lower"
            ),
            Claim("KL to the SFT model rises", "kl_last", "vanilla", START, "higher"),
            Claim(
                "rewards of fixed prompts grow a long tail",
                "reward_tail_last",
                "vanilla",
                START,
                "higher",
            ),
        ),
    ),
    "fig6": Study(
        "Score reparameterisation (fig. 6)",
        (
            "vanilla",
            "reward-scaling",
            "reward-norm-0.3",
            "reward-norm-0.8",
            "advantage-norm-0.5",
            "advantage-norm-0.12",
        ),
        (
            Claim("scaling alone is of no help", "kl_last", "reward-scaling", "vanilla", "same"),
            Claim(
                "normalised, clipped rewards stabilise",
                "kl_last",
                "reward-norm-0.3",
                "vanilla",
                "lower",
            ),
            Claim(
                "a tight clip learns more slowly",
                "reward_last",
                "reward-norm-0.3",
                "reward-norm-0.8",
                "lower",
            ),
        ),
    ),
    "fig7": Study(
        "Constraints on the policy (fig. 7)",
        ("vanilla", "kl", "entropy", "importance", "kl-importance"),
        (
            Claim("the KL penalty keeps the policy near", "kl_last", "kl", "vanilla", "lower"),
            Claim("and its quality up", "gold_last", "kl", "vanilla", "higher"),
            Claim(
                "a ratio against the reference stabilises",
                "kl_last",
                "importance",
                "vanilla",
                "lower",
            ),
            Claim(
                "at the cost of the final reward", "reward_last", "importance", "vanilla", "lower"
            ),
        ),
    ),
    "fig8": Study(
        "Where policy and critic start (fig. 8)",
        ("ppo-max", "policy-from-base", "critic-from-sft", "critic-pretraining", "vanilla"),
        (
            Claim("without SFT it fails", "gold_last", "policy-from-base", "ppo-max", "lower"),
            Claim(
                "a pre-trained critic learns steadily",
                "kl_last",
                "critic-pretraining",
                "vanilla",
                "lower",
            ),
            Claim(
                "where the critic starts matters little",
                "reward_last",
                "critic-from-sft",
                "ppo-max",
                "same",
            ),
        ),
    ),
    "fig9": Study(
        "PPO-max over a long run (fig. 9)",
        ("ppo-max", "vanilla"),
        (
            Claim("the reward rises", "reward_last", "ppo-max", START, "higher"),
            Claim("and judged quality with it", "gold_last", "ppo-max", START, "higher"),
            Claim("it stays nearer than vanilla PPO", "kl_last", "ppo-max", "vanilla", "lower"),
            Claim(
                "and ends with the better judged quality",
                "gold_last",
                "ppo-max",
                "vanilla",
                "higher",
            ),
        ),
    ),
    "fig12": Study(
        "The alignment tax (fig. 12)",
        ("ppo-max", "ppo-ptx"),
        (
            Claim(
                "ptx lowers the loss on plain text",
                "plain_text_loss",
                "ppo-ptx",
                "ppo-max",
                "lower",
            ),
        ),
    ),
    "fig14": Study(
        "Clipping combined (fig. 14)",
        ("r0.8-a0.8", "r0.8-a0.8-v", "r0.8-a-v", "r0.8-v", "scaling-a0.8-v"),
        (
            Claim(
                "whitened advantages conflict with value clipping",
                "kl_last",
                "r0.8-v",
                "r0.8-a-v",
                "lower",
            ),
        ),
    ),
    "fig15": Study(
        "Weight of the KL penalty (fig. 15)",
        ("ppo-max", "kl-0.1", "kl-0.2"),
        (
            Claim(
                "a larger weight holds the policy nearer", "kl_last", "kl-0.2", "ppo-max", "lower"
            ),
            Claim("and earns less reward", "reward_last", "kl-0.2", "ppo-max", "lower"),
        ),
    ),
    "fig16": Study(
        "Entropy bonus (fig. 16)",
        ("vanilla", "entropy", "entropy-30"),
        (Claim("the bonus keeps the entropy up", "entropy_last", "entropy", "vanilla", "higher"),),
    ),
    "fig17": Study(
        "Clip of the surrogate (fig. 17)",
        ("vanilla", "surrogate-none", "surrogate-0.5"),
        (*_little_effect("surrogate-none"), *_little_effect("surrogate-0.5")),
    ),
    "fig18": Study(
        "Gradient clipping (fig. 18)",
        ("vanilla", "gradient-none", "gradient-0.5"),
        (*_little_effect("gradient-none"), *_little_effect("gradient-0.5")),
    ),
    "fig19": Study(
        "Lambda of GAE (fig. 19)",
        ("gae-0.9", "gae-0", "gae-1"),
        (Claim("lambda 0 holds the policy nearer than 1", "kl_last", "gae-0", "gae-1", "lower"),),
    ),
}

STUDIES: dict[str, Study] = {**_OF_THE_PAPER, **NEIGHBOURS, **SEARCHES}

PAPER_FIGURES = tuple(name for name, study in STUDIES.items() if study.in_paper)

# names that stand for several studies
GROUPS: dict[str, tuple[str, ...]] = {"all": PAPER_FIGURES, "search": tuple(SEARCHES)}


def preset_of(figures: Sequence[str]) -> str:
    """The preset that figures are meant for; raises RlhfError where that is not one."""
    presets = {STUDIES[figure].preset for figure in figures}
    if len(presets) > 1:
        meant = ", ".join(f"{figure} {STUDIES[figure].preset}" for figure in figures)
        raise RlhfError(
            f"these figures are meant for different presets ({meant}): name one, or run each alone"
        )
    return presets.pop()
