"""Models behind OpenAI-compatible endpoints: as judge (the paper's GPT-4) and as opponent (its ChatGPT).

A judge's question is a rubric and one fenced comparison; the answer must be one JSON object. What can't be read is asked
again a few times, then counted as no vote. Answers are kept in an SQLite file under a key of server, model and all that
was sent, so that an interrupted evaluation goes on without paying twice; faults are never kept.
"""

import json
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import openai
from openai.types.chat import ChatCompletion
from pydantic import BaseModel, ConfigDict

from rlhf.common.errors import JudgeError
from rlhf.common.progress import Progress
from rlhf.evaluation.judges.answer_cache import Kept, KeptAnswers
from rlhf.evaluation.judges.endpoints import client_of, told
from rlhf.evaluation.judges.rubric import ANSWER_AGAIN, question
from rlhf.evaluation.types import Case, Preference, Verdict
from rlhf.settings.evaluation import Endpoint

if TYPE_CHECKING:
    from rlhf.evaluation.responses import Prompt  # brings torch, which a judge by HTTP needs not

_PAUSE, _LONGEST_PAUSE, _LONGEST_WISH = (
    0.5,
    60.0,
    600.0,
)  # seconds; a wish is the server's Retry-After
_PREFERRED: Mapping[str, Preference] = {"A": "first", "B": "second", "tie": "tie"}
_ABOUT_THE_TEXT = (
    "content_filter",
    "content_policy_violation",
    "context_length_exceeded",
    "string_above_max_length",
)
_FENCES = ("```", "```json")
_LIMITS = {"max_tokens", "max_completion_tokens"}
_BUSY = (408, 409, 425, 429)


class Reply(BaseModel):
    """What the judge must say, and nothing beside it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str
    verdict: Literal["A", "B", "tie"]


Messages = Sequence[Mapping[str, str]]
Facts = dict[str, float | int | None]


class Asker:
    """Asks an endpoint, several questions at a time, and keeps each answer."""

    def __init__(self, name: str, endpoint: Endpoint, kept: Path) -> None:
        self.name, self.endpoint = name, endpoint
        self._client = client_of(name, endpoint)
        self._answers = KeptAnswers(kept)
        self._lock, self._left = threading.Lock(), threading.Event()
        self.asked = self.kept = self.tokens_in = self.tokens_out = self.kept_in = self.kept_out = 0

    def ask_all(
        self, what: str, questions: Sequence[Messages], readable: Callable[[str], bool]
    ) -> list[Kept]:
        """One answer a question, in their order; an empty text where the endpoint refused to give any.

        An answer that is not readable is asked for again, `endpoint.asks` times in all; the last one stands.
        """
        keys = [self._key(each) for each in questions]
        waiting = dict(zip(keys, questions, strict=True))  # equal ones are asked once
        progress = Progress(what, len(waiting))
        answers: dict[str, Kept] = {}
        with self._pool() as pool:
            futures = {
                pool.submit(self._ask, key, each, readable): key for key, each in waiting.items()
            }
            for done in as_completed(futures):
                answers[futures[done]] = done.result()
                progress.advance(1)
        progress.close()
        return [answers[key] for key in keys]

    def facts(self) -> Facts:
        """What this run asked for, took from earlier ones, and paid; `price_with_kept`: with what those had paid."""
        return {
            "answers_asked": self.asked,
            "answers_kept": self.kept,
            "tokens_in": self.tokens_in,
            "tokens_out": self.tokens_out,
            "price": self._price(self.tokens_in, self.tokens_out),
            "price_with_kept": self._price(
                self.tokens_in + self.kept_in, self.tokens_out + self.kept_out
            ),
        }

    def _price(self, tokens_in: int, tokens_out: int) -> float | None:
        price = self.endpoint.price
        return (
            None if price is None else (tokens_in * price.input + tokens_out * price.output) / 1e6
        )

    def _key(self, messages: Messages) -> str:
        endpoint = self.endpoint
        sent = [
            endpoint.base_url,
            endpoint.model,
            endpoint.parameters,
            endpoint.asks,
            list(messages),
        ]
        return sha256(json.dumps(sent, sort_keys=True, ensure_ascii=False).encode()).hexdigest()

    def _ask(self, key: str, messages: Messages, readable: Callable[[str], bool]) -> Kept:
        found = self._answers.get(key)
        if found is None:
            found = self._fetch(messages, readable)
            self._answers.put(key, found)
        else:
            with self._lock:
                self.kept += 1
                self.kept_in += found.tokens_in
                self.kept_out += found.tokens_out
        return found

    def _fetch(self, messages: Messages, readable: Callable[[str], bool]) -> Kept:
        answer, asked = Kept("", True, 0, 0), list(messages)
        for _ in range(self.endpoint.asks):
            completion = self._complete(asked)
            if completion is None:
                break
            choice, usage = completion.choices[0], completion.usage
            text = choice.message.content or ""
            tokens_in, tokens_out = (
                (usage.prompt_tokens, usage.completion_tokens) if usage else (0, 0)
            )
            with self._lock:
                self.asked += 1
                self.tokens_in += tokens_in
                self.tokens_out += tokens_out
            whole = choice.finish_reason != "length"
            answer = Kept(text, whole, answer.tokens_in + tokens_in, answer.tokens_out + tokens_out)
            if readable(text):
                break
            asked = [*messages, {"role": "assistant", "content": text}, ANSWER_AGAIN]
        return answer

    def _complete(self, messages: Messages) -> ChatCompletion | None:
        """One completion, after as many tries as it takes; None where the endpoint refuses this text.

        Raises JudgeError that names the endpoint: at once for a fault of the settings, else when all tries have failed.
        """
        where = f"evaluate.endpoints.{self.name}"
        for attempt in range(self.endpoint.retries + 1):
            if self._left.is_set():
                raise JudgeError(f"{where}: given up, for the run ends")
            try:
                return _whole(self._client.chat.completions.create(**self._request(messages)))
            except openai.APIStatusError as error:
                if error.code in _ABOUT_THE_TEXT:
                    return None
                if error.status_code < 500 and error.status_code not in _BUSY:
                    raise JudgeError(
                        f"{where}: {self.endpoint.base_url} says no: {told(error, self._client)}"
                    ) from None
                last: Exception = error
            except (openai.APIError, json.JSONDecodeError, _Unusable) as error:
                last = error
            if attempt < self.endpoint.retries:
                self._left.wait(_pause(attempt, last))
        raise JudgeError(
            f"{where}: {self.endpoint.base_url} gave no answer: {told(last, self._client)}; what it answered before is "
            "kept, run the stage again to go on"
        ) from None

    def _request(self, messages: Messages) -> dict[str, Any]:
        return {
            "model": self.endpoint.model,
            "messages": list(messages),
            "extra_body": self.endpoint.parameters,
        }

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        """Threads that try nothing new once the block is left by an error or Ctrl-C."""
        pool = ThreadPoolExecutor(self.endpoint.concurrency)
        try:
            yield pool
        finally:
            self._left.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self._left.clear()


class _Unusable(Exception):
    """A reply with status 200 that is no completion."""


def _whole(reply: object) -> ChatCompletion:
    if not isinstance(reply, ChatCompletion):
        raise _Unusable("its reply is no chat completion; is base_url right?")
    if not reply.choices:
        extra = reply.model_extra or {}
        raise _Unusable(f"a reply without choices: {extra.get('error', 'no reason given')}")
    return reply


def _pause(attempt: int, error: Exception) -> float:
    """Seconds before the next try: what the server wishes, or twice as long each time, with some chance in it."""
    headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return min(_LONGEST_WISH, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    return min(_LONGEST_PAUSE, _PAUSE * 2**attempt) * random.uniform(0.75, 1.0)


class ApiJudge:
    """Puts every case to an endpoint; a case without a readable answer gets a verdict without a preference."""

    def __init__(self, name: str, endpoint: Endpoint, kept: Path) -> None:
        self.name = name
        self.asker = Asker(name, endpoint, kept)

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Ask for every case once, or for `limit` of them; equal responses are a tie without a question."""
        examples = self.asker.endpoint.worked_examples
        chosen = sorted(
            range(len(cases)), key=lambda place: sha256(cases[place].id.encode()).digest()
        )
        chosen = chosen[: self.asker.endpoint.limit]
        asked = [
            place for place in chosen if cases[place].response_first != cases[place].response_second
        ]
        answers = self.asker.ask_all(
            f"evaluate: judge {self.name}",
            [question(cases[place], examples) for place in asked],
            lambda text: parse_reply(text) is not None,
        )
        verdicts = [Verdict(None)] * len(cases)
        for place in chosen:
            verdicts[place] = Verdict("tie")
        for place, answer in zip(asked, answers, strict=True):
            verdicts[place] = Verdict(parse_reply(answer.text))
        return verdicts

    def facts(self) -> Facts:
        """What it cost."""
        return self.asker.facts()


def answers_of_endpoint(
    name: str, endpoint: Endpoint, prompts: Sequence["Prompt"], max_tokens: int, kept: Path
) -> tuple[list[Kept], Facts]:
    """An endpoint's own responses to prompts, and what they cost; an empty text where it refused to give any.

    Responses are limited to `max_tokens` unless the endpoint's parameters have a limit of their own. Raises JudgeError
    when none came.
    """
    parameters = dict(endpoint.parameters)
    if not _LIMITS & parameters.keys():
        parameters["max_tokens"] = max_tokens
    asker = Asker(name, endpoint.model_copy(update={"parameters": parameters, "asks": 1}), kept)
    questions = [[dict(message) for message in prompt.messages] for prompt in prompts]
    answers = asker.ask_all(f"evaluate: responses of {name}", questions, bool)
    if not any(answer.text.strip() for answer in answers):
        raise JudgeError(
            f"evaluate.endpoints.{name}: {endpoint.base_url} gave no response to any prompt"
        )
    return answers, asker.facts()


def parse_reply(text: str) -> Preference | None:
    """Read a verdict; None unless the whole text is the JSON object asked for, a code fence around it aside."""
    body = text.strip()
    first, _, rest = body.partition("\n")
    if first.strip() in _FENCES and rest.endswith("```"):
        body = rest[:-3]
    try:
        return _PREFERRED[
            Reply.model_validate(json.loads(body, object_pairs_hook=_each_once)).verdict
        ]
    except (ValueError, RecursionError):  # pydantic's and json's are among them
        return None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("a key twice")
    return dict(pairs)
