"""The curves of the PPO section, in groups: a table, which `panels.py` draws."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rlhf.report.curves import Curve, CurvePlot
from rlhf.report.inputs import JsonObject
from rlhf.report.neighbour_plots import added_plots


@dataclass(frozen=True)
class PlotGroup:
    """Plots under one heading; `with_reward_histograms`: the ridgelines of rewards follow them."""

    heading: str
    plots: tuple[CurvePlot, ...]
    with_reward_histograms: bool = False


# The reward rises in collapsed runs too: the signals of the next group tell them apart.
_SCORE = CurvePlot(
    name="ppo-reward",
    title="Score",
    curves=(
        Curve("reward", "rollouts", "policy"),
        Curve("validation_reward", "fixed validation prompts", "harmless", markers=True),
    ),
    note="It rises under collapse too, so it is no proof of quality.",
)
_NORMALISED = CurvePlot(
    name="ppo-normalised",
    title="Normalised and clipped reward",
    curves=(Curve("reward_normalised", "reward"),),
    note="The reward that the policy is trained on (details 4 and 5).",
)

# The first three decide whether the collapse alarm fires; they are marked on the page.
_SIGNALS = PlotGroup(
    "Is training sound? The three signals of section 5.2, and entropy",
    (
        CurvePlot(
            name="ppo-kl",
            title="KL to the SFT model",
            curves=(Curve("kl", "KL"),),
            note="Nats per response token.",
            collapse_signal=True,
        ),
        CurvePlot(
            name="ppo-perplexity",
            title="Perplexity on its own responses",
            curves=(Curve("perplexity", "perplexity"),),
            note="Falls towards 1 on collapse.",
            collapse_signal=True,
        ),
        CurvePlot(
            name="ppo-length",
            title="Response length",
            curves=(Curve("response_length", "length"),),
            note="Tokens. Rises to the limit on collapse.",
            collapse_signal=True,
        ),
        CurvePlot(
            name="ppo-objective",
            title="Objective on the validation prompts",
            curves=(Curve("validation_objective", "objective", markers=True),),
            note="Reward in units of its standard deviation, minus the KL penalty. "
            "The sound policy with the highest objective is selected.",
        ),
        CurvePlot(
            name="ppo-win-rate",
            title="Better than at the start",
            curves=(Curve("validation_win_rate", "share", markers=True),),
            note="Of the validation prompts, by the rewards. "
            "A few cut answers move the mean reward far, but not this.",
            percent=True,
            reference_levels=(0.5,),
        ),
        CurvePlot(
            name="ppo-entropy",
            title="Entropy",
            curves=(Curve("entropy", "entropy"),),
            note="Nats per response token.",
        ),
        CurvePlot(
            name="ppo-distinct",
            title="Distinct bigrams on the validation prompts",
            curves=(Curve("validation_distinct_2", "share", markers=True),),
            note="Falls when responses repeat themselves.",
            percent=True,
        ),
        CurvePlot(
            name="ppo-finished",
            title="Responses that end by themselves",
            curves=(Curve("finished", "finished"),),
            percent=True,
        ),
    ),
)

_POLICY_AND_CRITIC = PlotGroup(
    "Policy and critic",
    (
        CurvePlot(
            name="ppo-value",
            title="Value loss",
            curves=(Curve("value_loss", "loss"),),
            note="Grey background: only the critic is trained.",
            # large at first, while the critic is new
            log_scale=True,
        ),
        CurvePlot(
            name="ppo-explained",
            title="Explained variance of the returns",
            curves=(Curve("explained_variance", "variance"),),
            note="1: the critic predicts every return. 0: it is no better than their mean.",
            reference_levels=(0.0,),
        ),
        CurvePlot(
            name="ppo-clip",
            title="Clipped share",
            curves=(
                Curve("clip_fraction", "policy ratio"),
                Curve("value_clip_fraction", "value", "harmless", dashed=True),
            ),
            note="Of tokens (of responses with rloo); details 11 and 7.",
            percent=True,
        ),
        CurvePlot(
            name="ppo-policy-loss",
            title="Loss of the policy",
            curves=(Curve("policy_loss", "loss"),),
            note="What is minimised: with PPO-max the surrogate of eq. 15.",
        ),
        CurvePlot(
            name="ppo-ptx",
            title="Loss on plain text",
            curves=(Curve("ptx_loss", "ptx"),),
            note="Nats per token. The ptx term guards against the alignment tax.",
        ),
        CurvePlot(
            name="ppo-ratio",
            title="Largest deviation of the ratio from 1",
            curves=(
                Curve("ratio_max_deviation", "all updates"),
                Curve("first_ratio_deviation", "first update", "harmless", dashed=True),
            ),
            note="On the first update it should be a rounding error only.",
        ),
        CurvePlot(
            name="ppo-gradients",
            title="Gradient norms before clipping",
            curves=(
                Curve("policy_gradient_norm", "policy"),
                Curve("critic_gradient_norm", "critic", "harmless", dashed=True),
            ),
            log_scale=True,
        ),
    ),
)


# of the curves of several rewards; beyond them they are dashed
_SOURCE_COLORS = ("policy", "harmless", "sft", "other", "base")


def plot_groups(score_title: str, rows: Sequence[JsonObject]) -> tuple[PlotGroup, ...]:
    """All groups; `score_title`: what the score is; rows: of the step log, which names the rewards."""
    score = replace(_SCORE, title=score_title)
    plots = (score, *_source_plots(rows), _NORMALISED)
    reward = PlotGroup("Reward", plots, with_reward_histograms=True)
    added = added_plots(rows)
    of_algorithm = (PlotGroup("What this algorithm adds", added),) if added else ()
    return reward, _SIGNALS, _POLICY_AND_CRITIC, *of_algorithm


def _source_plots(rows: Sequence[JsonObject]) -> list[CurvePlot]:
    """Of a sum of rewards, each alone: what rises may be one of them."""
    # a reward is what has a spread of its own beside it
    keys = [
        key
        for key in dict.fromkeys(key for row in rows for key in row)
        if key.startswith("reward_") and any(f"{key}_std" in row for row in rows)
    ]
    if len(keys) < 2:
        return []
    colors = len(_SOURCE_COLORS)
    curves = tuple(
        Curve(key, key, _SOURCE_COLORS[place % colors], dashed=place >= colors)
        for place, key in enumerate(keys)
    )
    note = "Means as each reward gives them: before its weight, and before `normalise`."
    return [CurvePlot("ppo-rewards", "Each reward alone", curves, note)]
