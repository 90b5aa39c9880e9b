"""Whose responses are compared.

The stages' models, any Hugging Face directory, an endpoint's model, or a file of responses.
"""

import gc
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf.common.address import Address
from rlhf.common.errors import DataError, JudgeError
from rlhf.common.files import text_of
from rlhf.core.tokenizers import read_tokenizer, rendered_prompt
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.answer_cache import CachedAnswer
from rlhf.evaluation.endpoints import EndpointClient, find_endpoint
from rlhf.evaluation.responses import EvaluationPrompt, Response, generate_responses
from rlhf.evaluation.types import Facts
from rlhf.models.saving import load_answering_tokenizer, load_tokenizer
from rlhf.settings import Settings
from rlhf.settings.endpoints import Endpoint
from rlhf.workspace import Workspace

# the kind of the models that stages wrote; no address in the settings has it
_STAGE = "stage"
# an endpoint's own keys for the longest response
_LENGTH_LIMITS = {"max_tokens", "max_completion_tokens"}


def responses_of(
    name: str,
    settings: Settings,
    workspace: Workspace,
    prompts: Sequence[EvaluationPrompt],
    engine: TorchEngine,
) -> tuple[list[Response], Facts]:
    """One response to each prompt, and what they cost.

    name: base, sft, policy or one of `evaluate.opponents`

    Token ids are those of our tokenizer, whatever the opponent's own: the gold model scores them.
    What a model with our tokenizer sampled stays as it is: to tokenise it again might change it.
    """
    address = _address(name, settings)
    if address.kind == _STAGE:
        return _sample(name, prompts, settings, workspace, engine), {}

    tokenizer = load_tokenizer(workspace.model("sft"))
    limit = settings.evaluate.generation.max_new_tokens
    if address.kind == "path":
        return _path_responses(name, tokenizer, settings, workspace, prompts, engine), {}
    if address.kind == "api":
        endpoint = find_endpoint(address.detail, settings)
        answers, facts = endpoint_responses(
            address.detail, endpoint, prompts, limit, workspace.answer_cache
        )
        return [_endpoint_response(tokenizer, answer, limit) for answer in answers], facts
    texts = read_responses(address.path, prompts)
    return [_in_our_tokens(tokenizer, text, True, limit) for text in texts], {}


def model_directory(name: str, settings: Settings, workspace: Workspace) -> Path:
    """The directory of a stage's model, or of an opponent that is a `path:`."""
    address = _address(name, settings)
    return address.path if address.kind == "path" else workspace.model(name)


def _address(name: str, settings: Settings) -> Address:
    opponents = settings.evaluate.opponents
    return Address.parse(opponents[name]) if name in opponents else Address(_STAGE, name)


# -- models in a directory --


def _path_responses(
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    settings: Settings,
    workspace: Workspace,
    prompts: Sequence[EvaluationPrompt],
    engine: TorchEngine,
) -> list[Response]:
    directory = model_directory(name, settings, workspace)
    if _same_tokenizer(tokenizer, read_tokenizer(directory)):
        return _sample(name, prompts, settings, workspace, engine)
    encoded = _encode_prompts(load_answering_tokenizer(directory), prompts)
    responses = _sample(name, encoded, settings, workspace, engine)
    limit = settings.evaluate.generation.max_new_tokens
    return [
        _in_our_tokens(tokenizer, response.text, response.finished, limit) for response in responses
    ]


def _sample(
    name: str,
    prompts: Sequence[EvaluationPrompt],
    settings: Settings,
    workspace: Workspace,
    engine: TorchEngine,
) -> list[Response]:
    directory = model_directory(name, settings, workspace)
    responses = generate_responses(
        name, directory, prompts, settings.evaluate.generation, engine, settings.seed
    )
    # the model's memory, before the next one is loaded
    gc.collect()
    return responses


def _same_tokenizer(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    """Whether a text is the same tokens to both, as between versions of one model."""
    return _tokenizer_parts(one) == _tokenizer_parts(other)


def _tokenizer_parts(tokenizer: PreTrainedTokenizerBase) -> list[object]:
    # its merges, how it splits words, ...
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # how a batch is padded or cut is set anew at each use
        backend = json.loads(backend.to_str()) | {"padding": None, "truncation": None}
    return [
        backend,
        tokenizer.get_vocab(),
        tokenizer.chat_template,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
    ]


def _encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[EvaluationPrompt]
) -> list[EvaluationPrompt]:
    """The same prompts by another model's chat template and vocabulary."""
    encoded = []
    for prompt in prompts:
        text = rendered_prompt(tokenizer, prompt.messages)
        ids = tokenizer.encode(text, add_special_tokens=False)
        encoded.append(replace(prompt, ids=tuple(ids)))
    return encoded


def _in_our_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, finished: bool, limit: int
) -> Response:
    """A response by another model in our tokens, as long as ours may be: `limit` tokens."""
    eos_id = int(tokenizer.eos_token_id)
    ids = [int(token) for token in tokenizer.encode(text, add_special_tokens=False)]
    # at the limit there is no room for the end-of-turn token, as with our own models
    ended = finished and len(ids) < limit
    cut = [*ids, eos_id] if ended else ids[:limit]
    if len(ids) > limit:
        text = str(tokenizer.decode(cut, skip_special_tokens=True)).strip()
    # an empty text that did not end has no token: the gold model needs one
    return Response(tuple(cut) or (eos_id,), text, ended)


# -- endpoints --


def endpoint_responses(
    name: str,
    endpoint: Endpoint,
    prompts: Sequence[EvaluationPrompt],
    max_tokens: int,
    cache: Path,
) -> tuple[list[CachedAnswer], Facts]:
    """An endpoint's own responses to prompts, and what they cost; "" where it refused to give any.

    Responses are limited to `max_tokens` unless the endpoint's parameters have their own limit.
    Raises JudgeError when none came.
    """
    parameters = dict(endpoint.parameters)
    if not _LENGTH_LIMITS & parameters.keys():
        parameters["max_tokens"] = max_tokens
    # any text is an answer: nothing is asked again
    asked_once = endpoint.model_copy(update={"parameters": parameters, "asks": 1})
    client = EndpointClient(name, asked_once, cache)
    answers = client.ask_all(
        f"evaluate: responses of {name}", [prompt.messages for prompt in prompts]
    )
    if not any(answer.text.strip() for answer in answers):
        raise JudgeError(
            f"evaluate.endpoints.{name}: {endpoint.base_url} gave no response to any prompt"
        )
    return answers, client.facts()


def _endpoint_response(
    tokenizer: PreTrainedTokenizerBase, answer: CachedAnswer, limit: int
) -> Response:
    text = answer.text.strip()
    response = _in_our_tokens(tokenizer, text, answer.finished, limit)
    return replace(response, missing=not text)


# -- a file of responses --


def read_responses(path: Path, prompts: Sequence[EvaluationPrompt]) -> list[str]:
    """Responses from JSON lines, in the prompts' order.

    Each line has `response` and either `id` or `prompt` (the text of the user's last turn). Raises
    DataError that names file and line, or how many prompts have no response.
    """
    if not path.is_file():
        raise DataError(path, "no such file; it should hold a response to each held-out prompt")
    by_key = _responses_by_key(path, Counter(prompt.question for prompt in prompts))
    responses, missing = [], []
    for prompt in prompts:
        text = by_key.get(prompt.id, by_key.get(prompt.question))
        if text is None:
            missing.append(prompt.id)
        else:
            responses.append(text)
    if missing:
        raise DataError(
            path,
            f"{len(missing)} of {len(prompts)} prompts have no response, "
            f"for example id {missing[0]!r}",
        )
    return responses


def _responses_by_key(path: Path, prompts_by_question: Counter[str]) -> dict[str, str]:
    """Responses by the id or the text of their prompt."""
    by_key: dict[str, str] = {}
    for number, row in _json_lines(path):
        key, response = row.get("id", row.get("prompt")), row.get("response")
        if not isinstance(key, str) or not isinstance(response, str):
            raise DataError(path, "expected {id or prompt: text, response: text}", number)
        if key in by_key:
            raise DataError(path, f"a second response to {key!r}", number)
        same = prompts_by_question[key]
        if "id" not in row and same > 1:
            problem = f"{same} prompts end with {key!r}; name the prompt by its id"
            raise DataError(path, problem, number)
        by_key[key] = response.strip()
    return by_key


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """Line numbers from 1, and the objects of the lines that are not blank."""
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
