"""The keys of `metrics/evaluate.json`, which DVC and MLflow read: the one place that makes them.

Nothing takes them apart again; whoever wants structure reads `metrics/evaluate_details.json`.

    win_rate                     the headline: the first pair of models by the first judge
    win_rate_helpful             the same on the prompts of one kind
    sft_vs_base_win_rate         another pair, by the first judge
    rules_win_rate               the first pair, by another judge
    sft_vs_base_rules_win_rate   another pair, by another judge
    agreement_gold_rules         two judges; kappa_gold_rules beside it
    gold_score_policy            a model's responses
    gpt-4_price                  what a judge reports of itself
    opponent_chat_price          what an opponent cost
    knowledge_starter_sft        the alignment tax: a task and a model
    plain_text_loss_sft          the same on plain text
"""

from collections.abc import Mapping
from dataclasses import asdict

from rlhf.common.metrics import Value
from rlhf.evaluation.summary import ComparisonSummary, EvaluationSummary
from rlhf.evaluation.tax import TaxSummary


def flat_metrics(
    summary: EvaluationSummary, tax: TaxSummary, timings: Mapping[str, Value]
) -> dict[str, Value]:
    """All figures under flat keys; `timings` are added as they are."""
    headline = summary.headline
    flat: dict[str, Value] = {
        "prompts": summary.prompts,
        "compared": f"{headline.challenger} with {headline.baseline}",
        "judge": headline.judge,
    }
    # 1. comparisons, over all prompts and by kind
    for comparison in summary.comparisons:
        prefix = _prefix(comparison, headline)
        flat |= _renamed(comparison.metrics, prefix=prefix)
        for kind, shares in comparison.kinds.items():
            flat |= _renamed(shares, prefix=prefix, suffix=f"_{kind}")

    # 2. judges with each other, and models by themselves
    for pair in summary.agreement:
        flat[f"agreement_{pair.left}_{pair.right}"] = pair.accuracy
        flat[f"kappa_{pair.left}_{pair.right}"] = pair.kappa
    for model in summary.models:
        metrics = asdict(model)
        name = metrics.pop("model")
        flat |= _renamed(metrics, suffix=f"_{name}")

    # 3. what opponents and judges report of themselves
    for opponent in summary.opponents:
        flat |= _renamed(opponent.facts, prefix=f"opponent_{opponent.opponent}_")
    for judge in summary.judges:
        flat |= _renamed(judge.facts, prefix=f"{judge.judge}_")

    return flat | _flat_tax(tax) | dict(timings)


def _flat_tax(tax: TaxSummary) -> dict[str, Value]:
    flat: dict[str, Value] = {}
    for text in tax.plain_text:
        flat[f"plain_text_loss_{text.model}"] = text.loss
        flat[f"plain_text_perplexity_{text.model}"] = text.perplexity
    for known in tax.tax:
        flat[f"knowledge_{known.task}_{known.model}"] = known.accuracy
    return flat


def _prefix(comparison: ComparisonSummary, headline: ComparisonSummary) -> str:
    """Empty for the pair and the judge of the headline, else what differs from them."""
    prefix = ""
    pair = (comparison.challenger, comparison.baseline)
    if pair != (headline.challenger, headline.baseline):
        prefix += f"{comparison.challenger}_vs_{comparison.baseline}_"
    if comparison.judge != headline.judge:
        prefix += f"{comparison.judge}_"
    return prefix


def _renamed(metrics: Mapping[str, Value], prefix: str = "", suffix: str = "") -> dict[str, Value]:
    return {f"{prefix}{key}{suffix}": value for key, value in metrics.items()}
