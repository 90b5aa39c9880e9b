"""Whose responses are compared: the stages' models, any Hugging Face directory, an endpoint's model, or a file of responses."""

import gc
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf.common.errors import DataError
from rlhf.common.files import text_of
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.judges.api import Facts, answers_of_endpoint
from rlhf.evaluation.responses import Prompt, Response, generate_responses
from rlhf.models.saving import load_tokenizer
from rlhf.settings import Settings
from rlhf.workspace import Workspace


def responses_of(
    name: str,
    settings: Settings,
    workspace: Workspace,
    prompts: Sequence[Prompt],
    engine: TorchEngine,
) -> tuple[list[Response], Facts]:
    """One response to each prompt by base, sft, policy or one of `evaluate.opponents`, and what they cost.

    Token ids are those of our tokenizer, whatever the opponent's own: the gold model scores them. What a model with our
    tokenizer sampled is kept as it is: tokenised again it might be other tokens.
    """
    generation = settings.evaluate.generation
    kind, _, detail = settings.evaluate.opponents.get(name, f"stage:{name}").partition(":")
    directory, facts = model_directory(name, settings, workspace), Facts()
    if kind == "stage":
        return _sampled(name, directory, prompts, settings, engine), {}
    ours = load_tokenizer(workspace.model("sft"))
    if kind == "path":
        theirs = load_tokenizer(directory)
        if _speak_alike(ours, theirs):
            return _sampled(name, directory, prompts, settings, engine), {}
        found = _sampled(name, directory, _in_words_of(theirs, prompts), settings, engine)
        texts = [(each.text, each.finished) for each in found]
    elif kind == "api":
        endpoint = settings.evaluate.endpoints[detail]
        limit = generation.max_new_tokens
        answers, facts = answers_of_endpoint(
            detail, endpoint, prompts, limit, workspace.kept_answers
        )
        texts = [(answer.text.strip(), answer.whole) for answer in answers]
    else:
        texts = [(text, True) for text in read_responses(Path(os.path.expandvars(detail)), prompts)]
    return [
        _as_ours(ours, text, finished, generation.max_new_tokens, kind == "api")
        for text, finished in texts
    ], facts


def _sampled(
    name: str, directory: Path, prompts: Sequence[Prompt], settings: Settings, engine: TorchEngine
) -> list[Response]:
    found = generate_responses(
        name, directory, prompts, settings.evaluate.generation, engine, settings.seed
    )
    gc.collect()  # the model's memory before the next one is loaded
    return found


def model_directory(name: str, settings: Settings, workspace: Workspace) -> Path:
    """Where the model of a stage, or of an opponent that is a `path:`, lies."""
    kind, _, detail = settings.evaluate.opponents.get(name, "").partition(":")
    return Path(os.path.expandvars(detail)) if kind == "path" else workspace.model(name)


def _speak_alike(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase) -> bool:
    """Whether prompts and responses are the same tokens to both, as between versions of one model."""
    return _described(ours) == _described(theirs)


def _described(tokenizer: PreTrainedTokenizerBase) -> list[object]:
    backend = getattr(tokenizer, "backend_tokenizer", None)  # its merges, how it splits words, ...
    if backend is not None:
        backend = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    return [
        backend,
        tokenizer.get_vocab(),
        tokenizer.chat_template,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    ]


def _in_words_of(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The same prompts by another model's chat template and vocabulary."""
    texts = [
        tokenizer.apply_chat_template(
            list(prompt.messages), add_generation_prompt=True, tokenize=False
        )
        for prompt in prompts
    ]
    ids = [tokenizer.encode(str(text), add_special_tokens=False) for text in texts]
    return [replace(prompt, ids=tuple(own)) for prompt, own in zip(prompts, ids, strict=True)]


def _as_ours(
    tokenizer: PreTrainedTokenizerBase, text: str, finished: bool, limit: int, may_be_missing: bool
) -> Response:
    """A response by somebody else in our tokens, as long as ours may be."""
    ids = [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]
    ended = finished and len(ids) < limit
    kept = [*ids, int(tokenizer.eos_token_id)] if ended else ids[:limit]
    shown = (
        text if len(ids) <= limit else str(tokenizer.decode(kept, skip_special_tokens=True)).strip()
    )
    return Response(
        tuple(kept) or (int(tokenizer.eos_token_id),), shown, ended, may_be_missing and not text
    )


def read_responses(path: Path, prompts: Sequence[Prompt]) -> list[str]:
    """Responses from JSON lines, each with `response` and either `id` or `prompt` (the text of the last user's turn).

    Raises DataError that names file and line, or how many prompts have no response.
    """
    if not path.is_file():
        raise DataError(path, "no such file; it should hold a response to each held-out prompt")
    last_turns = Counter(prompt.messages[-1]["content"] for prompt in prompts)
    by_key: dict[str, str] = {}
    for number, row in _rows(path):
        key, response = row.get("id", row.get("prompt")), row.get("response")
        if not isinstance(key, str) or not isinstance(response, str):
            raise DataError(path, "expected {id or prompt: text, response: text}", number)
        if key in by_key:
            raise DataError(path, f"a second response to {key!r}", number)
        if "id" not in row and last_turns[key] > 1:
            raise DataError(
                path,
                f"{last_turns[key]} prompts end with {key!r}; name the prompt by its id",
                number,
            )
        by_key[key] = response.strip()
    found = [
        by_key.get(prompt.id, by_key.get(prompt.messages[-1]["content"])) for prompt in prompts
    ]
    missing = [prompt.id for prompt, text in zip(prompts, found, strict=True) if text is None]
    if missing:
        raise DataError(
            path,
            f"{len(missing)} of {len(prompts)} prompts have no response, for example id {missing[0]!r}",
        )
    return [text for text in found if text is not None]


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text_of(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(path, f"not JSON: {error}", number) from None
        if not isinstance(row, dict):
            raise DataError(path, "not a JSON object", number)
        yield number, row
