"""What a model knows: multiple-choice questions by likelihood, through EleutherAI's lm-eval.

To import lm-eval takes seconds: only who measures imports this module.
"""

import logging
import math
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from rlhf.common.errors import SettingsError
from rlhf.core.reach import longest_text
from rlhf.engine.single import TorchEngine
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.settings.schema import Settings

# the questions of knowledge.jsonl, which ship with us
STARTER = "starter"
# questions at once, and tokens of a padded batch: the logits of all of them are in memory
QUESTIONS_PER_BATCH = 16
TOKENS_PER_BATCH = 512 * QUESTIONS_PER_BATCH
# by likelihood per character, where a task has it
_METRICS = ("acc_norm", "acc")


@dataclass(frozen=True)
class Knowledge:
    """Share of right answers in [0, 1], its standard error, and how many questions were cut.

    A question that is longer than the model's window loses its start.
    """

    accuracy: float
    standard_error: float
    cut: int


def measure_knowledge(
    directory: Path,
    tasks: tuple[str, ...],
    limit: int | None,
    engine: TorchEngine,
    settings: Settings,
) -> dict[str, Knowledge]:
    """What a model knows of each task, answers chosen by likelihood, of `limit` questions or all.

    Questions may be as long as the model reads as it should; of longer ones
    lm-eval drops the start. Raises SettingsError where lm-eval has no such task, or cannot find its
    data on this machine.
    """
    # they log much that no user needs
    for name in ("lm_eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    lm = engine.frozen(load_causal_lm(directory))
    model = BatchedLM(
        pretrained=lm,
        tokenizer=load_tokenizer(directory),
        # with LongRope that is less than the window; None leaves it to lm-eval
        max_length=longest_text(lm.config),
        # or lm-eval never asks for `override_bs`
        batch_size="auto",
    )
    results = _run_lm_eval(model, tasks, limit, settings.seed)

    # a group of tasks has no questions of its own
    if groups := sorted(set(tasks) - results["n-samples"].keys()):
        raise SettingsError(f"evaluate.tax.tasks: {', '.join(groups)}: a group; name its tasks")
    measured = {}
    for task in tasks:
        questions = int(results["n-samples"][task]["effective"])
        accuracy, standard_error = _accuracy(task, results["results"][task], questions)
        cut = count_cut(results["samples"][task], model)
        measured[task] = Knowledge(accuracy, standard_error, cut)
    return measured


# -- lm-eval --


class BatchedLM(HFLM):
    """lm-eval's model, asked fewer questions at once where they are long."""

    def _loglikelihood_tokens(
        self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
    ) -> Any:
        longest = max((len(context) + len(answer) for _, context, answer in requests), default=1)
        size = min(QUESTIONS_PER_BATCH, max(1, TOKENS_PER_BATCH // longest))
        return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs or size)


def _run_lm_eval(
    model: HFLM, tasks: tuple[str, ...], limit: int | None, seed: int
) -> Mapping[str, Any]:
    others = any(task != STARTER for task in tasks)
    try:
        # its progress bars, several a task
        with redirect_stderr(StringIO()):
            return simple_evaluate(
                model=model,
                tasks=[starter_task() if task == STARTER else task for task in tasks],
                limit=limit,
                bootstrap_iters=0,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
                # for their lengths: lm-eval cuts without counting
                log_samples=True,
                task_manager=_task_manager(others),
            )
    except (KeyError, ValueError, OSError) as error:
        raise SettingsError(
            f"evaluate.tax.tasks: lm-eval cannot run {', '.join(tasks)}: {error}"
        ) from None


@cache
def _task_manager(with_defaults: bool) -> TaskManager:
    """lm-eval's tasks; to read the index of its own takes 6 s, hence only where it is needed."""
    return TaskManager(include_defaults=with_defaults)


# -- our own questions --


def starter_task() -> dict[str, Any]:
    """Our own questions as a task of lm-eval."""
    metrics = [
        {"metric": name, "aggregation": "mean", "higher_is_better": True}
        for name in reversed(_METRICS)
    ]
    return {
        "task": STARTER,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(starter_questions())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": metrics,
        "metadata": {"version": 1.0},
    }


def starter_questions() -> Path:
    """The file of our own questions."""
    return Path(str(resources.files("rlhf") / "evaluation" / "knowledge.jsonl"))


# -- figures --


def count_cut(samples: Iterable[dict[str, Any]], model: HFLM) -> int:
    """How many questions have an answer that does not fit into the window."""
    # the last token is only predicted, never read
    longest = model.max_length + 1
    cut = set()
    for sample in samples:
        for context, answer, *_ in sample["arguments"]:
            if isinstance(answer, str) and len(model.tok_encode(context + answer)) > longest:
                # a question counts once, however many filters its task has
                cut.add(sample["doc_id"])
    return len(cut)


def _accuracy(task: str, results: Mapping[str, Any], count: int) -> tuple[float, float]:
    """Share of right answers and its standard error, sqrt(p (1 - p) / n)."""
    for metric in _METRICS:
        if f"{metric},none" in results:
            share = float(results[f"{metric},none"])
            return share, math.sqrt(share * (1 - share) / count)
    raise SettingsError(f"evaluate.tax.tasks: {task} has no accuracy; take a multiple-choice task")
