"""Which figures stand in which section of the page, and their captions."""

from rlhf.report.curves import Curve, CurvePlot, plot_curves
from rlhf.report.figures import (
    ChartBar,
    GroupedHistogram,
    Panel,
    bar_chart,
    calibration_plot,
    outlined_histogram,
    ridgeline_plot,
    stacked_histogram,
)
from rlhf.report.inputs import JsonObject, ReportInputs
from rlhf.report.ppo_plots import plot_groups
from rlhf.report.scored import score_title
from rlhf.settings.schema import Settings

# half a 95 % interval of a normal distribution, in standard errors
_HALF_INTERVAL = 1.96

_SFT_PLOTS = (
    CurvePlot(
        name="sft-loss",
        title="Loss per assistant token",
        curves=(
            Curve("train_loss", "training", "base"),
            Curve("validation_loss", "validation", "sft", markers=True),
        ),
        note="Nats; the prompt's tokens do not count.",
        x_label="step",
    ),
    CurvePlot(
        name="sft-perplexity",
        title="Validation perplexity",
        curves=(Curve("validation_perplexity", "validation", "sft", markers=True),),
        note="Step 0 is the base model.",
        x_label="step",
    ),
    CurvePlot(
        name="sft-rate",
        title="Learning rate",
        curves=(Curve("learning_rate", "rate", "sft", smooth=False),),
        x_label="step",
    ),
)

_DPO_PLOTS = (
    CurvePlot(
        name="dpo-accuracy",
        title="Accuracy over steps",
        curves=(
            Curve("train_accuracy", "training", "base"),
            Curve("validation_accuracy", "validation", "policy", markers=True),
        ),
        note="Share of pairs with a positive margin; at step 0 there is none. Dotted: chance.",
        x_label="step",
        percent=True,
        reference_levels=(0.5,),
    ),
    CurvePlot(
        name="dpo-logprobs",
        title="Log-probability of held-out answers",
        curves=(
            Curve("validation_chosen_logprob", "chosen", "policy", markers=True),
            Curve("validation_rejected_logprob", "rejected", "base", markers=True),
        ),
        note="Nats an answer. Both may fall; the rejected ones should fall further.",
        x_label="step",
    ),
    CurvePlot(
        name="dpo-loss",
        title="Loss",
        curves=(
            Curve("train_loss", "training", "base"),
            Curve("validation_loss", "validation", "policy", markers=True),
        ),
        note="Nats per pair (a square with loss: ipo).",
        x_label="step",
    ),
)


_PROCESS_PLOTS = (
    CurvePlot(
        name="process-auc",
        title="Accuracy and AUC of held-out steps",
        curves=(
            Curve("validation_accuracy", "accuracy", "base", markers=True),
            Curve("validation_auc", "AUC", "policy", markers=True),
        ),
        note="AUC: how often a right step has the higher probability than a wrong one. Dotted: chance.",
        x_label="step",
        percent=True,
        reference_levels=(0.5,),
    ),
    CurvePlot(
        name="process-loss",
        title="Loss",
        curves=(
            Curve("step_loss", "training", "base"),
            Curve("validation_loss", "validation", "policy", markers=True),
        ),
        note="Nats per step with a label.",
        x_label="step",
    ),
)


def sft_panels(inputs: ReportInputs) -> list[Panel]:
    """Loss, perplexity and learning rate of supervised fine-tuning."""
    rows = inputs.steps["sft"]
    return [plot_curves(plot, rows) for plot in _SFT_PLOTS]


def reward_panels(stage: str, inputs: ReportInputs) -> list[Panel]:
    """Accuracy, margins, calibration and loss of the reward model, or of the gold model."""
    rows = inputs.steps[stage]
    details = inputs.details[stage]
    return [
        plot_curves(_accuracy_plot(stage), rows),
        stacked_histogram(
            f"{stage}-margins",
            "Margins on the test pairs",
            _margins(details),
            note="Right of zero the model agrees with the preference (fig. 2).",
            x_label="score of chosen − score of rejected",
        ),
        calibration_plot(
            f"{stage}-calibration",
            "Calibration",
            details.get("calibration", []),
            note="How sure the model is, against how often it is right. Larger dots hold more pairs.",
        ),
        plot_curves(_reward_loss_plot(stage), rows),
    ]


def _accuracy_plot(stage: str) -> CurvePlot:
    return CurvePlot(
        name=f"{stage}-accuracy",
        title="Accuracy over steps",
        curves=(
            Curve("train_accuracy", "training", "base"),
            Curve("validation_accuracy", "validation", "policy", markers=True),
        ),
        note="Share of pairs whose preferred response scores higher (fig. 3). Dotted: chance.",
        x_label="step",
        percent=True,
        reference_levels=(0.5,),
    )


def _reward_loss_plot(stage: str) -> CurvePlot:
    return CurvePlot(
        name=f"{stage}-loss",
        title="Loss",
        curves=(
            Curve("pair_loss", "pairs", "policy"),
            Curve("lm_loss", "imitation of the chosen", "base", dashed=True),
        ),
        note="The two terms of eq. 2.",
        x_label="step",
    )


def _margins(details: JsonObject) -> GroupedHistogram:
    # the file holds the edges and the counts of each kind side by side
    counts = dict(details.get("margin_histogram", {}))
    edges = counts.pop("edges", [])
    return GroupedHistogram(edges, counts)


def dpo_panels(inputs: ReportInputs) -> list[Panel]:
    """Accuracy, margins, log-probabilities and loss of direct preference optimisation."""
    rows = inputs.steps["dpo"]
    margins = stacked_histogram(
        "dpo-margins",
        "Margins on the test pairs",
        _margins(inputs.details["dpo"]),
        note="Right of zero the implicit reward agrees with the preference.",
        x_label="implicit reward of chosen − of rejected",
    )
    return [margins, *(plot_curves(plot, rows) for plot in _DPO_PLOTS)]


def process_panels(inputs: ReportInputs) -> list[Panel]:
    """AUC, loss and calibration of the process reward model."""
    rows = inputs.steps["process"]
    calibration = calibration_plot(
        "process-calibration",
        "Calibration",
        inputs.details["process"].get("calibration", []),
        note="How probably right a step is said to be, against its labels. Larger dots hold more steps.",
        x_label="predicted",
    )
    return [*(plot_curves(plot, rows) for plot in _PROCESS_PLOTS), calibration]


def ppo_groups(settings: Settings, inputs: ReportInputs) -> list[tuple[str, list[Panel]]]:
    """(heading, panels) of the policy's training."""
    rows = inputs.steps["ppo"]
    groups = []
    for group in plot_groups(score_title(settings), rows):
        panels = [plot_curves(plot, rows) for plot in group.plots]
        if group.with_reward_histograms:
            panels.append(_reward_ridges(inputs))
        groups.append((group.heading, panels))
    return groups


def _reward_ridges(inputs: ReportInputs) -> Panel:
    return ridgeline_plot(
        "ppo-ridges",
        "Rewards over training",
        inputs.details["ppo"].get("reward_histograms", []),
        note="Rewards of the fixed validation prompts (fig. 13). "
        "A long tail that grows is a sign of collapse.",
    )


def evaluation_panels(inputs: ReportInputs) -> list[Panel]:
    """Score differences of each comparison, then lengths and scores of the models."""
    details = inputs.details["evaluate"]
    panels = []
    scored = [item for item in details.get("comparisons", []) if item["score_difference"]]
    for position, comparison in enumerate(scored):
        challenger, baseline = comparison["challenger"], comparison["baseline"]
        panels.append(
            stacked_histogram(
                f"evaluate-{position}",
                f"Score difference, {challenger} − {baseline}",
                _histogram(comparison["score_difference"]),
                note="Right of zero the judge prefers the challenger.",
                x_label="score difference",
            )
        )
    # of all models together, so that they can be compared
    lengths = outlined_histogram(
        "evaluate-lengths",
        "Response lengths",
        _histogram(details.get("lengths", {})),
        note="Wins that come from length alone would show here.",
        x_label="tokens",
    )
    scores = outlined_histogram(
        "evaluate-scores",
        "Gold scores",
        _histogram(details.get("scores", {})),
        x_label="score",
    )
    return [*panels, lengths, scores]


def _histogram(table: JsonObject) -> GroupedHistogram:
    return GroupedHistogram(table.get("edges", []), table.get("counts", {}))


def tax_panels(inputs: ReportInputs) -> list[Panel]:
    """Fig. 12: accuracy on each benchmark by model, then the loss on plain text."""
    rows = inputs.details["evaluate"].get("tax", [])
    panels = []
    # in the order of the settings, as the rows are
    for task in dict.fromkeys(row["task"] for row in rows):
        bars = [
            ChartBar(row["model"], row["accuracy"], _HALF_INTERVAL * row["standard_error"])
            for row in rows
            if row["task"] == task
        ]
        note = "Share of questions whose right answer is the likeliest. Whiskers: 95 % interval."
        panels.append(bar_chart(f"tax-{task}", f"Knowledge: {task}", bars, note, percent=True))

    # a model whose tokenizer differs has no loss that could be compared, and no bar
    plain_text = inputs.details["evaluate"].get("plain_text", [])
    losses = [ChartBar(row["model"], row["loss"]) for row in plain_text]
    if losses:
        note = "Nats per token; lower is better. The ptx term is there to keep it low."
        panels.append(bar_chart("tax-plain-text", "Loss on held-out plain text", losses, note))
    return panels
