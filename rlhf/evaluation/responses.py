"""Held-out prompts and what a model answers to them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlhf.batches.tables import read_table, table_path
from rlhf.common.errors import DataError
from rlhf.common.progress import Progress
from rlhf.core.seeds import derive_seed
from rlhf.engine.single import TorchEngine
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.rollout.local import row_uniforms, sample
from rlhf.rollout.sampler import SamplingRule
from rlhf.settings.evaluation import Generation
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class Prompt:
    """One held-out prompt; `messages` end with the user's turn, `ids` with the chat template's generation prompt."""

    id: str
    kind: str
    messages: tuple[dict[str, str], ...]
    ids: tuple[int, ...]


@dataclass(frozen=True)
class Response:
    """What one model answered: the sampled ids (the end-of-turn token included if it came) and their text."""

    ids: tuple[int, ...]
    text: str
    finished: bool  # False: cut off at the limit
    missing: bool = False  # there is none: an endpoint refused; nobody judges it


def prompt_seed(seed: int, prompt: Prompt) -> int:
    """The seed of the random stream that a prompt's response is sampled from."""
    return derive_seed(seed, *stream_of(prompt))


def stream_of(prompt: Prompt) -> tuple[str, str]:
    """The names of that stream."""
    return "evaluate", prompt.id


def read_prompts(workspace: Workspace) -> list[Prompt]:
    """Read the test split of the prompts table; raises DataError that names file and row, or what is missing."""
    path, rows = table_path(workspace, "prompts"), read_table(workspace, "prompts", split="test")
    if rows.empty:
        raise DataError(path, "no row of split 'test' to judge on; data.evaluation feeds it")
    prompts = [_prompt(path, row) for row in rows.to_dict("records")]
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise DataError(path, "two rows of split 'test' share one id")
    return prompts


def _prompt(path: Path, row: dict[Any, Any]) -> Prompt:
    try:
        messages = tuple(
            {"role": str(m["role"]), "content": str(m["content"])}
            for m in json.loads(row["messages"])
        )
    except (json.JSONDecodeError, TypeError, KeyError) as error:
        raise DataError(
            path, f"row {row['id']!r}: messages is not a JSON list of role and content: {error}"
        ) from None
    ids = tuple(int(token) for token in row["prompt_ids"])
    if not messages or not ids:
        raise DataError(path, f"row {row['id']!r}: an empty prompt")
    return Prompt(str(row["id"]), str(row["kind"]), messages, ids)


def length_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """Indices in batches of near-equal length, longest first so that a lack of memory shows at once."""
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def generate_responses(
    name: str,
    directory: Path,
    prompts: Sequence[Prompt],
    settings: Generation,
    engine: TorchEngine,
    seed: int,
) -> list[Response]:
    """Sample one response for each prompt, in the prompts' order, from the model `name` in `directory`.

    The uniform numbers of a prompt are drawn under its own id: they are the same for every model and batching, so
    that two models differ by what they prefer, not by luck.
    """
    tokenizer = load_tokenizer(directory)
    dtype = torch.bfloat16 if engine.precision == "bf16" else torch.float32
    model = load_causal_lm(directory, dtype)
    engine.frozen(model)  # in place
    rule = SamplingRule(
        max_new_tokens=settings.max_new_tokens,
        eos_id=int(tokenizer.eos_token_id),
        pad_id=int(tokenizer.pad_token_id),
        temperature=settings.temperature,
        top_p=settings.top_p,
        repetition_penalty=settings.repetition_penalty,
    )
    answers: dict[int, Response] = {}
    progress = Progress(f"evaluate: responses of {name}", len(prompts))
    for batch in length_batches([len(prompt.ids) for prompt in prompts], settings.batch_size):
        uniforms = torch.stack(
            [row_uniforms(rule.max_new_tokens, seed, *stream_of(prompts[i])) for i in batch]
        )
        sampled = sample(model, [prompts[i].ids for i in batch], uniforms, rule).responses
        for index, ids in zip(batch, sampled, strict=True):
            answers[index] = Response(
                tuple(ids),
                str(tokenizer.decode(ids, skip_special_tokens=True)).strip(),
                ids[-1] == rule.eos_id,
            )
        progress.advance(len(batch))
    progress.close()
    return [answers[index] for index in range(len(prompts))]
