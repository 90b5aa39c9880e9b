"""The keys of metrics/evaluate.json, which DVC and MLflow have from earlier runs too: they stay as they are."""

from typing import Any

from rlhf.evaluation.flat_metrics import flat_metrics
from rlhf.evaluation.histograms import Histograms
from rlhf.evaluation.summary import (
    ComparisonSummary,
    EvaluationSummary,
    JudgeAgreement,
    JudgeFacts,
    ModelSummary,
    OpponentFacts,
)
from rlhf.evaluation.tax import PlainTextLoss, TaskKnowledge, TaxSummary

EMPTY = Histograms([], {})


def comparison(challenger: str, baseline: str, judge: str, rate: float) -> ComparisonSummary:
    metrics: dict[str, Any] = {"win_rate": rate, "unjudged": 1}
    kinds: dict[str, Any] = {"helpful": {"win_rate": rate + 0.05}}
    return ComparisonSummary(challenger, baseline, judge, False, metrics, kinds, None)


SUMMARY = EvaluationSummary(
    prompts=141,
    comparisons=[
        comparison("policy", "sft", "gold", 0.1),
        comparison("sft", "base", "gold", 0.2),
        comparison("policy", "sft", "gpt-4", 0.3),
        comparison("sft", "base", "gpt-4", 0.4),
    ],
    agreement=[
        JudgeAgreement(pairs=9, accuracy=0.7, decided=0.8, kappa=0.6, left="gold", right="gpt-4")
    ],
    models=[ModelSummary("sft", 2, 31.5, 0.9, 0.8, None)],
    judges=[JudgeFacts("gpt-4", {"price": 1.5})],
    opponents=[OpponentFacts("chat", {"price": 0.5})],
    lengths=EMPTY,
    scores=EMPTY,
)
TAX = TaxSummary(
    [TaskKnowledge("sft", "starter", 0.75, 0.04, 0)], [PlainTextLoss("sft", 4.0, 54.6)]
)


def test_every_figure_has_the_key_that_it_had_before() -> None:
    assert flat_metrics(SUMMARY, TAX, {"seconds": 3.0}) == {
        "prompts": 141, "compared": "policy with sft", "judge": "gold", "seconds": 3.0,
        "win_rate": 0.1, "win_rate_helpful": 0.1 + 0.05, "unjudged": 1,
        "sft_vs_base_win_rate": 0.2, "sft_vs_base_win_rate_helpful": 0.25, "sft_vs_base_unjudged": 1,
        "gpt-4_win_rate": 0.3, "gpt-4_win_rate_helpful": 0.35, "gpt-4_unjudged": 1,
        "sft_vs_base_gpt-4_win_rate": 0.4, "sft_vs_base_gpt-4_win_rate_helpful": 0.45,
        "sft_vs_base_gpt-4_unjudged": 1,
        "agreement_gold_gpt-4": 0.7, "kappa_gold_gpt-4": 0.6,
        "missing_sft": 2, "response_length_sft": 31.5, "finished_sft": 0.9, "distinct_2_sft": 0.8,
        "gold_score_sft": None,
        "gpt-4_price": 1.5, "opponent_chat_price": 0.5,
        "knowledge_starter_sft": 0.75, "plain_text_loss_sft": 4.0, "plain_text_perplexity_sft": 54.6,
    }  # fmt: skip
