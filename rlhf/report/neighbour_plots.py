"""The curves of what PPO-max's neighbours log beyond it: a table, of which a page has what its run logged."""

from collections.abc import Sequence

from rlhf.report.curves import Curve, CurvePlot
from rlhf.report.inputs import JsonObject

# what every algorithm that pays tokens pays them
_USUAL_SOURCES = frozenset({"token_reward_final_score", "token_reward_kl_penalty"})
_COLORS = ("policy", "harmless", "sft", "other", "base")

# Each is drawn where its first curve is in the log.
_PLOTS = (
    # xpo and online-dpo
    CurvePlot(
        name="ppo-second",
        title="Score of both responses to a prompt",
        curves=(
            Curve("reward_second", "second", "harmless", dashed=True),
            Curve("reward", "first"),
        ),
        note="Where the rewards rank the pairs, the better one is the chosen one.",
    ),
    CurvePlot(
        name="ppo-ties",
        title="Pairs with nothing to prefer",
        curves=(
            Curve("ties", "all of them"),
            Curve("unjudged", "a judge gave no verdict", "base", dashed=True),
        ),
        note="Equal scores or responses, a tie of a judge's, or no verdict: they count for nothing.",
        percent=True,
    ),
    CurvePlot(
        name="ppo-log-ratios",
        title="Log-ratio to the reference",
        curves=(
            Curve("chosen_log_ratio", "chosen"),
            Curve("rejected_log_ratio", "rejected", "base", dashed=True),
        ),
        note="Nats a response. Both may fall; the rejected ones should fall further.",
    ),
    CurvePlot(
        name="ppo-exploration",
        title="Exploration term",
        curves=(Curve("exploration_loss", "term"),),
        note="α log π of the second response, as it is added to the loss.",
    ),
    # these, and what learns from demonstrations
    CurvePlot(
        name="ppo-ranked",
        title="Pairs ranked right",
        curves=(
            Curve("pair_accuracy", "pairs"),
            Curve("validation_pair_accuracy", "pairs held out", "harmless", markers=True),
            Curve("demonstration_accuracy", "demonstration over response", "sft", dashed=True),
        ),
        note="By the reward that learns, or that the policy stands for. Dotted: chance.",
        percent=True,
        reference_levels=(0.5,),
    ),
    CurvePlot(
        name="ppo-feedback",
        title="Losses of pairs and demonstrations",
        curves=(
            Curve("pair_loss", "pairs"),
            Curve("demonstration_loss", "demonstrations", "sft", dashed=True),
            Curve("demonstration_nll", "demonstrations", "sft", dashed=True),
        ),
        note="Means over pairs, and over demonstrations.",
    ),
    CurvePlot(
        name="ppo-moving-reward",
        title="The reward that moves",
        curves=(
            Curve("moving_reward", "pays the policy"),
            Curve("reward", "stands still, and judges", "base", dashed=True),
        ),
        note="Scores of the rollouts, as each model gives them.",
    ),
    CurvePlot(
        name="ppo-style-length",
        title="Length of demonstrations and of responses in their place",
        curves=(
            Curve("sample_length", "responses"),
            Curve("demonstration_length", "demonstrations", "sft", dashed=True),
        ),
        note="Tokens. A reward may tell them apart by that alone.",
    ),
    CurvePlot(
        name="ppo-style-end",
        title="Demonstrations and responses that end by themselves",
        curves=(
            Curve("sample_finished", "responses"),
            Curve("demonstration_finished", "demonstrations", "sft", dashed=True),
        ),
        percent=True,
    ),
    # etpo
    CurvePlot(
        name="ppo-soft-values",
        title="Soft values",
        curves=(
            Curve("soft_value", "of states"),
            Curve("q_mean", "Q of the tokens taken", "harmless", dashed=True),
            Curve("q_target", "its target", "base", dashed=True),
        ),
    ),
    CurvePlot(
        name="ppo-td-error",
        title="Distance of Q from its target",
        curves=(Curve("td_error", "distance"),),
    ),
    CurvePlot(
        name="ppo-q-spread",
        title="Spread of Q over the tokens of a state",
        curves=(Curve("q_advantage_std", "spread"),),
        note="0: the critic tells no token from another.",
    ),
    CurvePlot(
        name="ppo-kl-exact",
        title="KL to the reference, over the whole vocabulary",
        curves=(Curve("kl_exact", "KL"),),
        note="Nats a state, while learning.",
    ),
    # grpo
    CurvePlot(
        name="ppo-kl-loss",
        title="KL to the reference in the loss",
        curves=(Curve("kl_loss", "KL"),),
        note="Nats per response token, by k3; with loss: sequence a mean over responses.",
    ),
    # process
    CurvePlot(
        name="ppo-steps",
        title="Steps of a response",
        curves=(
            Curve("steps", "rollouts"),
            Curve("validation_steps", "fixed validation prompts", "harmless", markers=True),
        ),
        note="Those that end. Where their scores are summed, more of them pay more.",
    ),
    CurvePlot(
        name="ppo-step-probability",
        title="Probability that a step is right",
        curves=(Curve("step_probability", "mean"),),
        note="By the process reward model.",
        percent=True,
    ),
)


def added_plots(rows: Sequence[JsonObject]) -> tuple[CurvePlot, ...]:
    """The plots of what is in the log; rows: of the step log. None of PPO-max's."""
    logged = dict.fromkeys(key for row in rows for key in row)
    sources = [key for key in logged if key.startswith("token_reward_")]
    of_sources = () if _USUAL_SOURCES.issuperset(sources) else (_token_rewards(sources),)
    return (*of_sources, *(plot for plot in _PLOTS if plot.curves[0].key in logged))


def _token_rewards(keys: Sequence[str]) -> CurvePlot:
    """What a response is paid by each source."""
    colors = len(_COLORS)
    curves = tuple(
        Curve(
            key,
            key.removeprefix("token_reward_").replace("_", " "),
            _COLORS[place % colors],
            dashed=place >= colors,
        )
        for place, key in enumerate(keys)
    )
    note = "Sums over a response, means over responses: one source may drown the others."
    return CurvePlot("ppo-token-rewards", "What the tokens are paid, by source", curves, note)
