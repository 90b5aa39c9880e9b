"""The alignment tax (fig. 12): what a model knows, by likelihood through lm-eval, and its loss on held-out plain text."""

import gc
import logging
import math
from collections.abc import Iterable
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from io import StringIO
from pathlib import Path
from typing import Any

from rlhf.common.errors import SettingsError
from rlhf.common.metrics import Value
from rlhf.common.progress import Progress
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.opponents import model_directory
from rlhf.evaluation.plain_text import plain_text_loss
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

log = logging.getLogger("rlhf")
STARTER = "starter"  # the questions of knowledge.jsonl, ours
_BATCH = 16  # questions at once
_TOKENS = 512 * _BATCH  # of a batch, padded to its longest: the logits of all are kept
_METRICS = ("acc_norm", "acc")  # by likelihood per character, where a task has it


@dataclass(frozen=True)
class Knowledge:
    """Share of right answers in [0, 1], its standard error, and how many questions lost their start to the model's window."""

    accuracy: float
    standard_error: float
    cut: int


def alignment_tax(
    settings: Settings, workspace: Workspace, engine: TorchEngine
) -> tuple[dict[str, Value], dict[str, Any]]:
    """Flat metrics `knowledge_<task>_<model>`, `plain_text_loss_<model>` (nats per token) and `plain_text_perplexity_<model>`,
    and the same as rows with standard errors for the report.

    Raises SettingsError where lm-eval has no such task, or cannot find its data on this machine.
    """
    tax = settings.evaluate.tax
    assert tax is not None
    flat: dict[str, Value] = {}
    rows: list[dict[str, Any]] = []
    vocabulary = load_tokenizer(workspace.model("sft")).get_vocab()
    progress = Progress("evaluate: alignment tax", len(tax.models))
    for name in tax.models:
        directory = model_directory(name, settings, workspace)
        if (
            load_tokenizer(directory).get_vocab() == vocabulary
        ):  # another's tokens are not to be compared
            loss = plain_text_loss(directory, workspace, engine)
            flat |= {
                f"plain_text_loss_{name}": loss,
                f"plain_text_perplexity_{name}": math.exp(loss),
            }
        found = knowledge(directory, tax.tasks, tax.limit, engine, settings)
        for task, known in found.items():
            flat[f"knowledge_{task}_{name}"] = known.accuracy
            rows.append({"model": name, "task": task} | asdict(known))
            if known.cut:
                log.warning(
                    "evaluate: %s: %d questions are longer than the window of %s and lost their start",
                    task,
                    known.cut,
                    name,
                )
        progress.advance(1)
        gc.collect()
    progress.close()
    return flat, {"tax": rows}


def knowledge(
    directory: Path,
    tasks: tuple[str, ...],
    limit: int | None,
    engine: TorchEngine,
    settings: Settings,
) -> dict[str, Knowledge]:
    """What a model knows of each task, answers chosen by likelihood.

    Questions may be as long as the window that the model's configuration states; of longer ones lm-eval keeps the end.
    """
    from lm_eval import simple_evaluate  # imports take seconds, and only this needs them
    from lm_eval.models.huggingface import HFLM

    for name in ("lm_eval", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Bounded(HFLM):
        """Fewer questions at once where they are long."""

        def _loglikelihood_tokens(
            self, requests: Any, disable_tqdm: bool = False, override_bs: int | None = None
        ) -> Any:
            longest = max(
                (len(context) + len(answer) for _, context, answer in requests), default=1
            )
            size = min(_BATCH, max(1, _TOKENS // longest))
            return super()._loglikelihood_tokens(requests, disable_tqdm, override_bs or size)

    model = Bounded(
        pretrained=engine.frozen(load_causal_lm(directory)),
        tokenizer=load_tokenizer(directory),
        batch_size="auto",  # or lm-eval asks nobody
    )
    try:
        with redirect_stderr(StringIO()):  # its progress bars, several a task
            found = simple_evaluate(
                model=model,
                tasks=[starter_task() if task == STARTER else task for task in tasks],
                limit=limit,
                bootstrap_iters=0,
                random_seed=settings.seed,
                numpy_random_seed=settings.seed,
                torch_random_seed=settings.seed,
                fewshot_random_seed=settings.seed,
                log_samples=True,  # their lengths: lm-eval cuts without counting
                task_manager=_task_manager(any(task != STARTER for task in tasks)),
            )
    except (KeyError, ValueError, OSError) as error:
        raise SettingsError(
            f"evaluate.tax.tasks: lm-eval cannot run {', '.join(tasks)}: {error}"
        ) from None
    if groups := sorted(set(tasks) - found["n-samples"].keys()):
        raise SettingsError(f"evaluate.tax.tasks: {', '.join(groups)}: a group; name its tasks")
    return {
        task: Knowledge(
            *_accuracy(task, found["results"][task], int(found["n-samples"][task]["effective"])),
            _cut(found["samples"][task], model),
        )
        for task in tasks
    }


def starter_task() -> dict[str, Any]:
    """Our own questions as a task of lm-eval."""
    return {
        "task": STARTER,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(_questions())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "answer",
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True}
            for name in reversed(_METRICS)
        ],
        "metadata": {"version": 1.0},
    }


@cache
def _task_manager(with_defaults: bool) -> Any:
    """lm-eval's index of its own tasks takes 6 s to read: once a process, and only where one of them is asked for."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=with_defaults)


def _questions() -> Path:
    return Path(str(resources.files("rlhf") / "evaluation" / "knowledge.jsonl"))


def _cut(samples: Iterable[dict[str, Any]], model: Any) -> int:
    """How many questions have an answer that does not fit into the window; its last token is only predicted, never read."""
    return len(
        {
            sample["doc_id"]  # once, however many filters a task has
            for sample in samples
            for context, answer, *_ in sample["arguments"]
            if isinstance(answer, str)
            and len(model.tok_encode(context + answer)) > model.max_length + 1
        }
    )


def _accuracy(task: str, results: dict[str, Any], count: int) -> tuple[float, float]:
    """Share of right answers and its standard error, sqrt(p (1 - p) / n)."""
    for metric in _METRICS:
        if f"{metric},none" in results:
            share = float(results[f"{metric},none"])
            return share, math.sqrt(share * (1 - share) / count)
    raise SettingsError(f"evaluate.tax.tasks: {task} has no accuracy; take a multiple-choice task")
