"""Models behind OpenAI-compatible endpoints: as judge (the paper's GPT-4) and as opponent (its ChatGPT).

A judge's question is a rubric and one fenced comparison; the answer must be one JSON object. What can't be read is asked
again a few times, then counted as no vote. Answers are kept in an SQLite file under a key of all that was sent, so that
an interrupted evaluation goes on without paying twice.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import openai
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf.common.errors import JudgeError
from rlhf.common.progress import Progress
from rlhf.evaluation.judges import Case, Preference, Verdict
from rlhf.evaluation.kept_answers import Kept, KeptAnswers
from rlhf.evaluation.rubric import ANSWER_AGAIN, question
from rlhf.settings.evaluation import Endpoint

if TYPE_CHECKING:
    from rlhf.evaluation.responses import Prompt  # brings torch, which a judge by HTTP needs not

log = logging.getLogger("rlhf")

_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds, as the client itself has them

_PREFERRED: Mapping[str, Preference] = {"A": "first", "B": "second", "tie": "tie"}
_REFUSED = (openai.BadRequestError, openai.UnprocessableEntityError)  # this text, by a filter or for its length
_WRONG_SETTINGS = (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError)


class Reply(BaseModel):
    """What the judge must say, and nothing beside it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str
    verdict: Literal["A", "B", "tie"]


Messages = Sequence[Mapping[str, str]]


class Asker:
    """Asks an endpoint, several questions at a time, and keeps each answer.

    The client waits and tries again on faults of the server: 429, 5xx, timeouts, lost connections.
    """

    def __init__(self, name: str, endpoint: Endpoint, kept: Path) -> None:
        self.name, self.endpoint = name, endpoint
        self._client = client_of(name, endpoint)
        self._answers = KeptAnswers(kept)
        self._lock = threading.Lock()
        self.asked = self.kept = self.tokens_in = self.tokens_out = 0

    def ask_all(self, what: str, questions: Sequence[Messages], readable: Callable[[str], bool]) -> list[str]:
        """One answer a question, in their order; "" where the endpoint refused to give any.

        An answer that is not readable is asked for again, `endpoint.asks` times in all; the last one stands.
        """
        keys = [self._key(each) for each in questions]
        waiting = dict(zip(keys, questions, strict=True))  # equal ones are asked once
        progress = Progress(what, len(waiting))
        answers: dict[str, str] = {}
        with _pool(self.endpoint.concurrency) as pool:
            futures = {pool.submit(self._ask, key, each, readable): key for key, each in waiting.items()}
            for done in as_completed(futures):
                answers[futures[done]] = done.result()
                progress.advance(1)
        progress.close()
        return [answers[key] for key in keys]

    @property
    def price(self) -> float | None:
        """Of the tokens of this run; None where no price is set."""
        price = self.endpoint.price
        return None if price is None else (self.tokens_in * price.input + self.tokens_out * price.output) / 1e6

    def _key(self, messages: Messages) -> str:
        sent = [self.endpoint.model, self.endpoint.parameters, list(messages)]
        return sha256(json.dumps(sent, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def _ask(self, key: str, messages: Messages, readable: Callable[[str], bool]) -> str:
        found = self._answers.get(key)
        if found is None:
            found = self._fetch(messages, readable)
            self._answers.put(key, found)
        else:
            with self._lock:
                self.kept += 1
        return found.text

    def _fetch(self, messages: Messages, readable: Callable[[str], bool]) -> Kept:
        tokens_in = tokens_out = 0
        text = ""
        asked = list(messages)
        for _ in range(self.endpoint.asks):
            completion = self._complete(asked)
            if completion is None:
                break
            text = (completion.choices[0].message.content if completion.choices else None) or ""
            if completion.usage is not None:
                tokens_in += completion.usage.prompt_tokens
                tokens_out += completion.usage.completion_tokens
            with self._lock:
                self.asked += 1
            if readable(text):
                break
            asked = [*messages, {"role": "assistant", "content": text}, ANSWER_AGAIN]
        with self._lock:
            self.tokens_in += tokens_in
            self.tokens_out += tokens_out
        return Kept(text, tokens_in, tokens_out)

    def _complete(self, messages: Messages) -> ChatCompletion | None:
        """One completion; None where the endpoint refuses this text (a filter, its length)."""
        for attempt in range(self.endpoint.retries + 1):
            try:
                return self._client.chat.completions.create(
                    model=self.endpoint.model,
                    messages=messages,  # type: ignore[arg-type]
                    **self.endpoint.parameters,
                )
            except _REFUSED as error:
                log.warning("%s refused a question: %s", self.name, error)
                return None
            except _WRONG_SETTINGS as error:
                raise JudgeError(f"evaluate.endpoints.{self.name}: {self.endpoint.base_url} says no: {error}") from None
            except (openai.APIError, json.JSONDecodeError) as error:
                unread = isinstance(error, json.JSONDecodeError)  # a gateway's page: the client does not try again
                if unread and attempt < self.endpoint.retries:
                    time.sleep(min(_LONGEST_PAUSE, _PAUSE * 2**attempt))
                    continue
                raise JudgeError(
                    f"evaluate.endpoints.{self.name}: {self.endpoint.base_url} gave no answer after "
                    f"{self.endpoint.retries + 1} tries: {error}; what it answered before is kept, run the stage again to go on"
                ) from None
        raise AssertionError("the last attempt returns or raises")


class ApiJudge:
    """Puts every case to an endpoint; a case without a readable answer gets a verdict without a preference."""

    def __init__(self, name: str, endpoint: Endpoint, kept: Path) -> None:
        self.name = name
        self.asker = Asker(name, endpoint, kept)

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Ask for every case once."""
        questions = [question(case, self.asker.endpoint.worked_examples) for case in cases]
        answers = self.asker.ask_all(
            f"evaluate: judge {self.name}", questions, lambda text: parse_reply(text) is not None
        )
        return [Verdict(parse_reply(answer)) for answer in answers]

    def facts(self) -> dict[str, float | int | None]:
        """What this run asked for, took from earlier ones, and paid."""
        asker = self.asker
        return {
            "answers_asked": asker.asked,
            "answers_kept": asker.kept,
            "tokens_in": asker.tokens_in,
            "tokens_out": asker.tokens_out,
            "price": asker.price,
        }


def answers_of_endpoint(
    name: str, endpoint: Endpoint, prompts: Sequence["Prompt"], max_tokens: int, kept: Path
) -> list[tuple[str, bool]]:
    """An endpoint's own responses to prompts, as (text, whether there is any)."""
    limited = endpoint.model_copy(update={"parameters": {"max_tokens": max_tokens} | endpoint.parameters, "asks": 1})
    questions = [[dict(message) for message in prompt.messages] for prompt in prompts]
    answers = Asker(name, limited, kept).ask_all(f"evaluate: responses of {name}", questions, bool)
    return [(answer.strip(), bool(answer.strip())) for answer in answers]


def parse_reply(text: str) -> Preference | None:
    """Read a verdict; None unless the whole text is the JSON object asked for, a code fence around it aside."""
    body = text.strip()
    if body.startswith("```") and body.endswith("```") and "\n" in body:
        body = body[body.index("\n") + 1 : -3].strip()
    try:
        return _PREFERRED[Reply.model_validate_json(body).verdict]
    except ValidationError:
        return None


def client_of(name: str, endpoint: Endpoint) -> openai.OpenAI:
    """Make a client; its key comes from the environment and is kept nowhere else.

    Raises JudgeError when the variable is not set.
    """
    key = os.environ.get(endpoint.key_variable)
    if not key:
        raise JudgeError(
            f"evaluate.endpoints.{name}.key_variable: {endpoint.key_variable} is not set; it holds the key for "
            f"{endpoint.base_url} (any text where the server asks for none)"
        )
    return openai.OpenAI(
        api_key=key, base_url=endpoint.base_url, timeout=endpoint.timeout_seconds, max_retries=endpoint.retries
    )


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that start nothing new once the block is left by an error or Ctrl-C."""
    pool = ThreadPoolExecutor(workers)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
