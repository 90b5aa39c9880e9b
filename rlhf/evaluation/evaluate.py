"""The evaluate stage: models answer the held-out prompts, judges compare, figures are written."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pandas as pd

from rlhf.common.address import Address
from rlhf.common.errors import ModelError
from rlhf.common.files import staged_directory, write_json
from rlhf.common.metrics import write_summary
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.comparisons import Comparison, comparison_tables, judge_responses
from rlhf.evaluation.endpoints import find_endpoint, openai_client
from rlhf.evaluation.flat_metrics import flat_metrics
from rlhf.evaluation.judges import make_judge
from rlhf.evaluation.opponents import read_responses, responses_of
from rlhf.evaluation.responses import EvaluationPrompt, Response, ResponsesByModel, read_prompts
from rlhf.evaluation.summary import EvaluationSummary, summarise
from rlhf.evaluation.tax import TaxSummary, alignment_tax
from rlhf.evaluation.types import Facts
from rlhf.models.classifier import check_classifier
from rlhf.models.saving import load_answering_tokenizer
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class JudgedResponses:
    """What every model answered, and what every judge of the settings made of it.

    judge_facts, opponent_facts: what they report of themselves, by name
    tokens_per_second: of all responses; seed: the run's
    """

    prompts: list[EvaluationPrompt]
    responses: ResponsesByModel
    comparisons: list[Comparison]
    judge_facts: dict[str, Facts]
    opponent_facts: dict[str, Facts]
    tokens_per_second: float
    seed: int

    def table(self) -> pd.DataFrame:
        """One row a prompt, pair of models and judge."""
        return comparison_tables(self.comparisons, self.prompts, self.responses, self.seed)

    def summary(self) -> EvaluationSummary:
        """The figures that are drawn from it."""
        return summarise(
            self.comparisons,
            self.prompts,
            self.responses,
            self.seed,
            self.judge_facts,
            self.opponent_facts,
        )


def evaluate(settings: Settings, workspace: Workspace) -> None:
    """Write `data/evaluation/comparisons.parquet` and the figures drawn from it.

    `metrics/evaluate_details.json` holds them in their structure, `metrics/evaluate.json` flat. The
    first comparison of the settings, by the first judge, is the headline.
    """
    began = time.monotonic()
    check_ready(settings, workspace)
    engine = TorchEngine(settings.engine)

    # 1. The alignment tax, first: a wrong name of a task must not cost judged answers.
    tax = alignment_tax(settings, workspace, engine)

    # 2. Models answer, judges compare.
    judged = compare(settings, workspace, engine)

    # 3. What was answered and judged, then the figures.
    with staged_directory(workspace.comparisons.parent) as directory:
        judged.table().to_parquet(directory / workspace.comparisons.name, index=False)
    summary = judged.summary()
    timings = {
        "generation_tokens_per_second": judged.tokens_per_second,
        "seconds": time.monotonic() - began,
    }
    write_figures(workspace, summary, tax, timings)


def write_figures(
    workspace: Workspace,
    summary: EvaluationSummary,
    tax: TaxSummary,
    timings: Mapping[str, float],
) -> None:
    """Write the details and, from the same figures, the flat summary."""
    write_json(workspace.details("evaluate"), summary.as_json() | tax.as_json())
    write_summary(workspace.metrics("evaluate"), flat_metrics(summary, tax, timings))


def check_ready(
    settings: Settings, workspace: Workspace, addresses: Sequence[str] | None = None
) -> None:
    """Refuse a key, file or directory that judges and opponents lack before any work.

    `addresses` are those to look at, all of the settings without them. Responses in a `file:` are
    looked up by the prompts that `prepare` has made.
    """
    section = settings.evaluate
    if addresses is None:
        addresses = (*section.judges, *section.opponents.values())
    for text in addresses:
        address = Address.parse(text)
        # kinds that are not here need nothing beside what DVC brought
        if address.kind == "gold" and section.gold is not None:
            with _naming(f"evaluate.gold: {section.gold}"):
                check_classifier(workspace.root / Address.parse(section.gold).path)
        elif address.kind == "api":
            endpoint = find_endpoint(address.detail, settings)
            openai_client(f"evaluate.endpoints.{address.detail}", endpoint)
        elif address.kind == "people":
            make_judge(text, settings, workspace)
        elif address.kind == "file":
            read_responses(address.path, read_prompts(workspace))
        elif address.kind == "path":
            names = [name for name, opponent in section.opponents.items() if opponent == text]
            with _naming(f"evaluate.opponents.{', '.join(names)}: {text}"):
                load_answering_tokenizer(address.path)


@contextmanager
def _naming(key: str) -> Iterator[None]:
    """Put the setting that is at fault in front of messages."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{key}: {error}") from error


def compare(settings: Settings, workspace: Workspace, engine: TorchEngine) -> JudgedResponses:
    """Let every model of `evaluate.comparisons` answer, and every judge compare each pair.

    Models are in memory one at a time.
    """
    section = settings.evaluate

    # 1. Every model that takes part answers every held-out prompt.
    began = time.monotonic()
    prompts = read_prompts(workspace)
    responses: dict[str, list[Response]] = {}
    opponent_facts: dict[str, Facts] = {}
    for name in dict.fromkeys(name for pair in section.comparisons for name in pair):
        responses[name], opponent_facts[name] = responses_of(
            name, settings, workspace, prompts, engine
        )
    seconds = max(time.monotonic() - began, 1e-9)
    tokens = sum(len(response.ids) for every in responses.values() for response in every)

    # 2. Each judge compares each pair in both orders.
    comparisons: list[Comparison] = []
    judge_facts: dict[str, Facts] = {}
    for address in section.judges:
        judge = make_judge(address, settings, workspace)
        for challenger, baseline in section.comparisons:
            judgements = judge_responses(judge, prompts, responses[challenger], responses[baseline])
            comparisons.append(Comparison(challenger, baseline, judge.name, judgements))
        judge_facts[judge.name] = judge.facts()
        # a model's memory, before the next one is loaded
        del judge

    return JudgedResponses(
        prompts=prompts,
        responses=responses,
        comparisons=comparisons,
        judge_facts=judge_facts,
        opponent_facts=opponent_facts,
        tokens_per_second=tokens / seconds,
        seed=settings.seed,
    )
