"""Held-out prompts and what a model answers to them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batches.tables import read_table, table_path
from rlhf.common.errors import DataError
from rlhf.common.progress import Progress
from rlhf.core.reach import check_window
from rlhf.core.seeds import derive_seed
from rlhf.engine.single import TorchEngine
from rlhf.models.saving import load_answering_tokenizer, load_causal_lm
from rlhf.rollout.local import row_uniforms, sample
from rlhf.rollout.sampler import SamplingRule, answering_rule
from rlhf.settings.evaluation import Generation
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class EvaluationPrompt:
    """One held-out prompt.

    messages: they end with the user's turn
    ids: the same as tokens, with the chat template's generation prompt at the end
    """

    id: str
    kind: str
    messages: tuple[dict[str, str], ...]
    ids: tuple[int, ...]

    @property
    def question(self) -> str:
        """The text of the user's last turn."""
        return self.messages[-1]["content"]


@dataclass(frozen=True)
class Response:
    """What one model answered.

    ids: the sampled tokens, the end-of-turn token included if it came; text: the same as text
    finished: False: cut off at the limit
    missing: True: there is none, as an endpoint refused; nobody judges it
    """

    ids: tuple[int, ...]
    text: str
    finished: bool
    missing: bool = False


# by model, in the prompts' order
ResponsesByModel = Mapping[str, Sequence[Response]]


# -- randomness --


def prompt_seed(seed: int, prompt: EvaluationPrompt) -> int:
    """The seed of the random stream that a prompt's response is sampled from."""
    return derive_seed(seed, *random_stream(prompt))


def random_stream(prompt: EvaluationPrompt) -> tuple[str, str]:
    """The names of that stream: the same for every model and batching."""
    return "evaluate", prompt.id


# -- prompts --


def read_prompts(workspace: Workspace) -> list[EvaluationPrompt]:
    """Read the test split of the prompts table.

    Raises DataError that names file and row, or what is missing.
    """
    path = table_path(workspace, "prompts")
    rows = read_table(workspace, "prompts", split="test")
    if rows.empty:
        raise DataError(path, "no row of split 'test' to judge on; data.evaluation feeds it")
    prompts = [_prompt(path, row) for row in rows.to_dict("records")]
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise DataError(path, "two rows of split 'test' share one id")
    return prompts


def _prompt(path: Path, row: dict[Any, Any]) -> EvaluationPrompt:
    try:
        messages = tuple(
            {"role": str(message["role"]), "content": str(message["content"])}
            for message in json.loads(row["messages"])
        )
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        problem = f"row {row['id']!r}: messages is not a JSON list of role and content: {error}"
        raise DataError(path, problem) from None
    ids = tuple(int(token) for token in row["prompt_ids"])
    if not messages or not ids:
        raise DataError(path, f"row {row['id']!r}: an empty prompt")
    return EvaluationPrompt(str(row["id"]), str(row["kind"]), messages, ids)


# -- responses --


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of near-equal length, the longest first."""
    # longest first: a lack of memory shows at once
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def generate_responses(
    name: str,
    directory: Path,
    prompts: Sequence[EvaluationPrompt],
    settings: Generation,
    engine: TorchEngine,
    seed: int,
) -> list[Response]:
    """Sample one response for each prompt, in the prompts' order, from the model in `directory`.

    The uniform numbers of a prompt are drawn under its own id: they are the same for every model
    and batching, so that two models differ by what they prefer, not by luck.
    """
    tokenizer = load_answering_tokenizer(directory)
    model = load_causal_lm(directory, _dtype(engine))
    # in place
    engine.frozen(model)
    rule = _sampling_rule(model, tokenizer, settings)
    longest = max(len(prompt.ids) for prompt in prompts) + rule.max_new_tokens
    what = f"{name}: the longest prompt + evaluate.generation.max_new_tokens"
    check_window(model.config, {what: longest})

    responses: dict[int, Response] = {}
    progress = Progress(f"evaluate: responses of {name}", len(prompts))
    lengths = [len(prompt.ids) for prompt in prompts]
    for batch in length_batches(lengths, settings.batch_size):
        streams = [random_stream(prompts[index]) for index in batch]
        seeds = [derive_seed(seed, *stream) for stream in streams]
        uniforms = [row_uniforms(rule.max_new_tokens, one) for one in seeds]
        prompt_ids = [prompts[index].ids for index in batch]
        sampled = sample(model, prompt_ids, torch.stack(uniforms), rule).responses
        for index, ids in zip(batch, sampled, strict=True):
            text = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
            responses[index] = Response(tuple(ids), text, finished=ids[-1] in rule.ends)
        progress.advance(len(batch))
    progress.close()
    return [responses[index] for index in range(len(prompts))]


def _dtype(engine: TorchEngine) -> torch.dtype:
    return torch.bfloat16 if engine.precision == "bf16" else torch.float32


def _sampling_rule(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, settings: Generation
) -> SamplingRule:
    return answering_rule(
        model,
        tokenizer,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
        greedy=settings.temperature == 0,
    )
