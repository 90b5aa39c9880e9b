"""Which figures stand in which section, and the words beside them."""

from rlhf.report.figures import (
    Curve,
    Lines,
    Panel,
    bar_chart,
    calibration,
    histogram,
    lines,
    outlines,
    ridgelines,
)
from rlhf.report.inputs import Inputs


def sft_panels(inputs: Inputs) -> list[Panel]:
    """Loss and perplexity of supervised fine-tuning."""
    rows = inputs.steps["sft"]
    return [
        lines(
            Lines(
                "sft-loss",
                "Loss per assistant token",
                (
                    Curve("train_loss", "training", "base"),
                    Curve("validation_loss", "validation", "sft", marked=True),
                ),
                "Nats; the prompt's tokens do not count.",
                "step",
            ),
            rows,
        ),
        lines(
            Lines(
                "sft-perplexity",
                "Validation perplexity",
                (Curve("validation_perplexity", "validation", "sft", marked=True),),
                "Step 0 is the base model.",
                "step",
            ),
            rows,
        ),
        lines(
            Lines(
                "sft-rate",
                "Learning rate",
                (Curve("learning_rate", "rate", "sft", exact=True),),
                unit="step",
            ),
            rows,
        ),
    ]


def reward_panels(stage: str, inputs: Inputs) -> list[Panel]:
    """Of the reward model, or of the gold model: accuracy, margins, calibration, loss."""
    rows, details = inputs.steps[stage], inputs.details[stage]
    margins = details.get("margin_histogram", {})
    return [
        lines(
            Lines(
                f"{stage}-accuracy",
                "Accuracy over steps",
                (
                    Curve("train_accuracy", "training", "base"),
                    Curve("validation_accuracy", "validation", "policy", marked=True),
                ),
                "Share of pairs with the preferred response scored higher; dotted: chance (fig. 3).",
                "step",
                percent=True,
                levels=(0.5,),
            ),
            rows,
        ),
        histogram(
            f"{stage}-margins",
            "Margins on the test pairs",
            margins.get("edges", []),
            {kind: counts for kind, counts in margins.items() if kind != "edges"},
            "Right of zero the model agrees with the preference (fig. 2).",
            "score of chosen − score of rejected",
        ),
        calibration(
            f"{stage}-calibration",
            "Calibration",
            details.get("calibration", []),
            "How sure the model is against how often it is right; larger dots hold more pairs.",
        ),
        lines(
            Lines(
                f"{stage}-loss",
                "Loss",
                (
                    Curve("pair_loss", "pairs", "policy"),
                    Curve("lm_loss", "imitation of the chosen", "base", dashed=True),
                ),
                "The two terms of eq. 2.",
                "step",
            ),
            rows,
        ),
    ]


def ppo_groups(inputs: Inputs) -> list[tuple[str, list[Panel]]]:
    """(heading, panels) of the policy's training; grey ground: the critic learns alone."""
    rows = inputs.steps["ppo"]
    groups = [(heading, [lines(panel, rows) for panel in panels]) for heading, panels in _PPO]
    histograms = inputs.details["ppo"].get("reward_histograms", [])
    note = "Rewards of the fixed validation prompts (fig. 13); a long tail that grows is a sign of collapse."
    groups[0][1].append(ridgelines("ppo-ridges", "Rewards over training", histograms, note))
    return groups


def evaluation_panels(inputs: Inputs) -> list[Panel]:
    """Score differences of each comparison, then lengths and scores of the models."""
    details = inputs.details["evaluate"]
    panels = []
    scored = [item for item in details.get("comparisons", []) if item["score_difference"]]
    for position, item in enumerate(scored):
        title = f"Score difference, {item['challenger']} − {item['baseline']}"
        table = item["score_difference"]
        note = "Right of zero the judge prefers the challenger."
        panels.append(
            histogram(
                f"evaluate-{position}",
                title,
                table["edges"],
                table["counts"],
                note,
                "score difference",
            )
        )
    note = "A win by length alone would show here."
    panels.append(
        outlines("evaluate-lengths", "Response lengths", details.get("lengths", {}), note, "tokens")
    )
    panels.append(
        outlines("evaluate-scores", "Gold scores", details.get("scores", {}), xlabel="score")
    )
    return panels


def tax_panels(inputs: Inputs) -> list[Panel]:
    """Fig. 12: the benchmarks by model, and the loss on plain text."""
    details = inputs.details["evaluate"]
    rows = details.get("tax", [])
    tasks = dict.fromkeys(row["task"] for row in rows)
    panels = []
    for task in tasks:
        bars = [
            (row["model"], row["accuracy"], 1.96 * row["standard_error"])
            for row in rows
            if row["task"] == task
        ]
        note = "Share of questions whose right answer is the likeliest; whiskers: 95 %."
        panels.append(bar_chart(f"tax-{task}", f"Knowledge: {task}", bars, note, percent=True))
    losses = [(row["model"], row["loss"], None) for row in details.get("plain_text", [])]
    if losses:
        note = "Nats per token; lower is better. What ptx is there to hold down."
        panels.append(bar_chart("tax-plain-text", "Loss on held-out plain text", losses, note))
    return panels


_PPO: tuple[tuple[str, tuple[Lines, ...]], ...] = (
    (
        "Reward",
        (
            Lines(
                "ppo-reward",
                "Score of the reward model",
                (
                    Curve("reward", "rollouts", "policy"),
                    Curve("validation_reward", "fixed validation prompts", "harmless", marked=True),
                ),
                "Rises under collapse too: not a proof of quality.",
            ),
            Lines(
                "ppo-normalised",
                "Normalised and clipped reward",
                (Curve("reward_normalised", "reward"),),
                "What the policy is given (details 4 and 5).",
            ),
        ),
    ),
    (
        "Is training sound? The three signals of section 5.2, and entropy",
        (
            Lines(
                "ppo-kl",
                "KL to the SFT model",
                (Curve("kl", "KL"),),
                "Nats per response token.",
                watch=True,
            ),
            Lines(
                "ppo-perplexity",
                "Perplexity on its own responses",
                (Curve("perplexity", "perplexity"),),
                "Falls towards 1 on collapse.",
                watch=True,
            ),
            Lines(
                "ppo-length",
                "Response length",
                (Curve("response_length", "length"),),
                "Tokens; rises to the limit on collapse.",
                watch=True,
            ),
            Lines(
                "ppo-objective",
                "Objective on the validation prompts",
                (Curve("validation_objective", "objective", marked=True),),
                "Reward in units of its spread, less KL penalty; the policy of the highest sound point is kept.",
            ),
            Lines(
                "ppo-entropy", "Entropy", (Curve("entropy", "entropy"),), "Nats per response token."
            ),
            Lines(
                "ppo-distinct",
                "Different bigrams on the validation prompts",
                (Curve("validation_distinct_2", "share", marked=True),),
                "Falls when responses repeat themselves.",
                percent=True,
            ),
            Lines(
                "ppo-finished",
                "Responses that end by themselves",
                (Curve("finished", "finished"),),
                percent=True,
            ),
        ),
    ),
    (
        "Policy and critic",
        (
            Lines(
                "ppo-value",
                "Value loss",
                (Curve("value_loss", "loss"),),
                "Grey ground: the critic learns alone.",
                log=True,
            ),
            Lines(
                "ppo-explained",
                "Explained variance of the returns",
                (Curve("explained_variance", "variance"),),
                "1: the critic foresees every return; 0: no better than their mean.",
                levels=(0.0,),
            ),
            Lines(
                "ppo-clip",
                "Clipped share of tokens",
                (
                    Curve("clip_fraction", "policy ratio"),
                    Curve("value_clip_fraction", "value", "harmless", dashed=True),
                ),
                "Details 11 and 7.",
                percent=True,
            ),
            Lines(
                "ppo-surrogate",
                "Surrogate loss",
                (Curve("policy_loss", "surrogate"),),
                "Eq. 15, what is minimised.",
            ),
            Lines(
                "ppo-ptx",
                "Loss on plain text",
                (Curve("ptx_loss", "ptx"),),
                "Nats per token; guards against the alignment tax.",
            ),
            Lines(
                "ppo-ratio",
                "Largest deviation of the ratio from 1",
                (
                    Curve("ratio_max_deviation", "all updates"),
                    Curve("first_ratio_deviation", "first update", "harmless", dashed=True),
                ),
                "On the first update it should be rounding only.",
            ),
            Lines(
                "ppo-gradients",
                "Gradient norms before clipping",
                (
                    Curve("policy_gradient_norm", "policy"),
                    Curve("critic_gradient_norm", "critic", "harmless", dashed=True),
                ),
                log=True,
            ),
        ),
    ),
)
