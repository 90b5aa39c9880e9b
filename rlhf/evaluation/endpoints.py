"""Models behind OpenAI-compatible endpoints: asking them patiently, paying for no answer twice.

Judges and opponents use this. Answers are cached in an SQLite file under a key of server, model and
all that was sent, so that an interrupted evaluation goes on without paying again. Faults are never
cached.
"""

import json
import os
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import openai
from openai.types.chat import ChatCompletion

from rlhf.common.errors import JudgeError, SettingsError
from rlhf.common.progress import Progress
from rlhf.evaluation.answer_cache import AnswerCache, CachedAnswer
from rlhf.evaluation.types import Facts
from rlhf.settings.endpoints import Endpoint
from rlhf.settings.schema import Settings

Message = Mapping[str, str]
Messages = Sequence[Message]

# seconds between two tries: at first, at most, and at most where the server asks for a pause
_PAUSE, _LONGEST_PAUSE, _LONGEST_RETRY_AFTER = 0.5, 60.0, 600.0
# headers of a pause that the server asks for, and their units in seconds
_RETRY_HEADERS = (("retry-after-ms", 1e-3), ("retry-after", 1.0))
# faults of one text, not of the endpoint
_TEXT_REFUSED = (
    "content_filter",
    "content_policy_violation",
    "context_length_exceeded",
    "string_above_max_length",
)
_BUSY = (408, 409, 425, 429)
# a shorter key ("none") is no secret, and would be struck out of ordinary words
_SHORTEST_SECRET = 8
# characters of an answer that a message shows
_SHOWN_ANSWER = 200


# -- asking --


@dataclass(frozen=True)
class AnswerForm:
    """What an answer must look like, and the message that asks again for one that does not.

    An answer that is not readable is asked for `endpoint.asks` times in all; the last one stands.

    is_readable: of a question and an answer to it
    """

    is_readable: Callable[[Messages, str], bool]
    correction: Message


class EndpointClient:
    """Asks an endpoint several questions at a time, and caches each answer.

    stage: the section of the settings that the endpoint stands in
    show_progress: of each round of questions
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        cache: Path,
        stage: str = "evaluate",
        show_progress: bool = True,
    ) -> None:
        self.name, self.endpoint = name, endpoint
        # as messages name it
        self._settings_key = f"{stage}.endpoints.{name}"
        self._show_progress = show_progress
        self._openai = openai_client(self._settings_key, endpoint)
        self._cache = AnswerCache(cache)
        # guards the counters below: answers come in several threads
        self._lock = threading.Lock()
        self._asked = self._tokens_in = self._tokens_out = 0
        self._cached = self._cached_tokens_in = self._cached_tokens_out = 0
        # questions without a readable answer, until the first that has one
        self._unreadable = 0
        self._was_readable = False
        # set once the run ends early: no thread tries anything new
        self._stopped = threading.Event()

    def ask_all(
        self, description: str, questions: Sequence[Messages], form: AnswerForm | None = None
    ) -> list[CachedAnswer]:
        """One answer a question, in their order; "" where the endpoint refused to give any.

        Without a form any answer will do. Raises JudgeError when the endpoint cannot be used or
        stays silent.
        """
        keys = [self._key(messages) for messages in questions]
        # equal questions are asked once
        waiting = dict(zip(keys, questions, strict=True))
        progress = Progress(description, len(waiting), show=self._show_progress)
        answers: dict[str, CachedAnswer] = {}
        # each is cached as it comes: whatever ends the run, what came is paid for once
        with self._pool() as pool:
            futures = {}
            for key, messages in waiting.items():
                futures[pool.submit(self._answer, key, messages, form)] = key
            for future in as_completed(futures):
                answers[futures[future]] = future.result()
                progress.advance(1)
        progress.close()
        return [answers[key] for key in keys]

    def facts(self) -> Facts:
        """What this run asked for, took from the cache, and paid.

        `price_with_kept` adds what the cached answers had cost the runs that asked for them.
        """
        return {
            "answers_asked": self._asked,
            "answers_kept": self._cached,
            "tokens_in": self._tokens_in,
            "tokens_out": self._tokens_out,
            "price": self._price(self._tokens_in, self._tokens_out),
            "price_with_kept": self._price(
                self._tokens_in + self._cached_tokens_in,
                self._tokens_out + self._cached_tokens_out,
            ),
        }

    def _price(self, tokens_in: int, tokens_out: int) -> float | None:
        price = self.endpoint.price
        if price is None:
            return None
        return (tokens_in * price.input + tokens_out * price.output) / 1e6

    # -- one answer --

    def _key(self, messages: Messages) -> str:
        """All that decides an answer, hashed. It stays as it is: cached answers are found by it."""
        endpoint = self.endpoint
        sent = [
            endpoint.base_url,
            endpoint.model,
            endpoint.parameters,
            endpoint.asks,
            list(messages),
        ]
        text = json.dumps(sent, sort_keys=True, ensure_ascii=False)
        return sha256(text.encode()).hexdigest()

    def _answer(self, key: str, messages: Messages, form: AnswerForm | None) -> CachedAnswer:
        answer = self._cache.get(key)
        if answer is not None:
            with self._lock:
                self._cached += 1
                self._cached_tokens_in += answer.tokens_in
                self._cached_tokens_out += answer.tokens_out
            self._note_readability(messages, answer, form)
            return answer
        answer = self._fetch(messages, form)
        # of a judge that nobody can read yet nothing is kept: it is asked anew once it is mended
        if self._note_readability(messages, answer, form):
            self._cache.put(key, answer)
        return answer

    def _note_readability(
        self, messages: Messages, answer: CachedAnswer, form: AnswerForm | None
    ) -> bool:
        """Whether an answer is worth keeping; raises JudgeError where not one could be read so far."""
        if form is None or not answer.text:
            return True
        readable, limit = form.is_readable(messages, answer.text), self.endpoint.give_up_after
        with self._lock:
            self._was_readable |= readable
            self._unreadable += not readable
            if not self._was_readable and limit is not None and self._unreadable >= limit:
                raise JudgeError(self._never_readable(answer))
            return self._was_readable

    def _never_readable(self, answer: CachedAnswer) -> str:
        """What a run ends with whose judge gave no readable answer, with the beginning of one."""
        # escaped: it is another's text, on its way to a terminal
        text = repr(answer.text[:_SHOWN_ANSWER]) + ("..." if answer.text[_SHOWN_ANSWER:] else "")
        cut = "; it was cut off: allow more tokens in `parameters`" if not answer.finished else ""
        return (
            f"{self._settings_key}: none of the first {self._unreadable} answers of "
            f"{self.endpoint.model} at {self.endpoint.base_url} can be read, say {text}{cut}; a judge "
            'answers {"reason": "...", "verdict": "A"}, thoughts and prose around it are passed over. '
            "Stopped, for such answers are no votes (give_up_after)"
        )

    def _fetch(self, messages: Messages, form: AnswerForm | None) -> CachedAnswer:
        """Ask until the answer is readable, `asks` times at most; the tokens of all tries count."""
        answer = CachedAnswer("", True, 0, 0)
        sent = list(messages)
        for _ in range(self.endpoint.asks):
            completion = self._complete(sent)
            # refused: what it answered before stands, though not readable
            if completion is None:
                break
            tokens_in, tokens_out = self._count(completion)
            choice = completion.choices[0]
            text = choice.message.content or ""
            answer = CachedAnswer(
                text,
                finished=choice.finish_reason != "length",
                tokens_in=answer.tokens_in + tokens_in,
                tokens_out=answer.tokens_out + tokens_out,
            )
            if form is None or form.is_readable(messages, text):
                break
            # the unreadable answer is shown to the model that gave it
            sent = [*messages, {"role": "assistant", "content": text}, form.correction]
        return answer

    def _count(self, completion: ChatCompletion) -> tuple[int, int]:
        """Note what a completion cost; gives its tokens in and out."""
        # servers of one's own may leave it out
        usage = completion.usage
        tokens_in = usage.prompt_tokens if usage else 0
        tokens_out = usage.completion_tokens if usage else 0
        with self._lock:
            self._asked += 1
            self._tokens_in += tokens_in
            self._tokens_out += tokens_out
        return tokens_in, tokens_out

    def _complete(self, messages: Messages) -> ChatCompletion | None:
        """One completion, after as many tries as it takes; None where this text is refused.

        Raises JudgeError that names the endpoint: at once for a fault of the settings, else when
        all tries have failed.
        """
        key, base_url = self._settings_key, self.endpoint.base_url
        for attempt in range(self.endpoint.retries + 1):
            if self._stopped.is_set():
                raise JudgeError(f"{key}: given up, for the run ends")
            try:
                return _with_choices(self._request(messages))
            except openai.APIStatusError as error:
                if error.code in _TEXT_REFUSED:
                    return None
                # a fault of the settings, such as a wrong key: to try again would not help
                if error.status_code < 500 and error.status_code not in _BUSY:
                    message = without_key(error, self._openai)
                    raise JudgeError(f"{key}: {base_url} says no: {message}") from None
                last: Exception = error
            except (openai.APIError, json.JSONDecodeError, _UnusableCompletion) as error:
                last = error
            if attempt < self.endpoint.retries:
                self._stopped.wait(_pause(attempt, last))
        raise JudgeError(
            f"{key}: {base_url} gave no answer: {without_key(last, self._openai)}; "
            "what it answered before is cached, run the stage again to go on"
        ) from None

    def _request(self, messages: Messages) -> object:
        request: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": list(messages),
            "extra_body": self.endpoint.parameters,
        }
        return self._openai.chat.completions.create(**request)

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        """Threads that try nothing new once the block is left by an error or Ctrl-C."""
        pool = ThreadPoolExecutor(self.endpoint.concurrency)
        try:
            yield pool
        finally:
            # wakes threads that pause between two tries
            self._stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
            self._stopped.clear()


# -- endpoints of the settings --


def find_endpoint(name: str, settings: Settings) -> Endpoint:
    """An endpoint of the settings; raises SettingsError with the names there are."""
    endpoints = settings.evaluate.endpoints
    if name not in endpoints:
        known = ", ".join(sorted(endpoints)) or "none"
        raise SettingsError(f"no endpoint {name!r}; evaluate.endpoints has: {known}")
    return endpoints[name]


def openai_client(settings_key: str, endpoint: Endpoint) -> openai.OpenAI:
    """Make a client that tries once; its key comes from the environment and is written nowhere.

    settings_key: of the endpoint, such as evaluate.endpoints.gpt4

    Raises JudgeError when the variable is not set.
    """
    key = os.environ.get(endpoint.key_variable)
    if not key:
        raise JudgeError(
            f"{settings_key}.key_variable: {endpoint.key_variable} is not set; it holds "
            f"the key for {endpoint.base_url} (any text where the server asks for none)"
        )
    return openai.OpenAI(
        api_key=key, base_url=endpoint.base_url, timeout=endpoint.timeout_seconds, max_retries=0
    )


def without_key(error: Exception, client: openai.OpenAI) -> str:
    """An error's text, without the key that a server may repeat in it."""
    key = client.api_key
    return str(error).replace(key, "***") if len(key) >= _SHORTEST_SECRET else str(error)


# -- faults --


class _UnusableCompletion(Exception):
    """A response with status 200 that is no completion."""


def _with_choices(completion: object) -> ChatCompletion:
    if not isinstance(completion, ChatCompletion):
        raise _UnusableCompletion("its reply is no chat completion; is base_url right?")
    if not completion.choices:
        extra = completion.model_extra or {}
        reason = extra.get("error", "no reason given")
        raise _UnusableCompletion(f"a reply without choices: {reason}")
    return completion


def _pause(attempt: int, error: Exception) -> float:
    """Seconds before the next try: what the server asks for, or twice as long each time.

    With some chance in it, so that threads do not come back at once.
    """
    headers = error.response.headers if isinstance(error, openai.APIStatusError) else {}
    for name, unit in _RETRY_HEADERS:
        try:
            return min(_LONGEST_RETRY_AFTER, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    longest = min(_LONGEST_PAUSE, _PAUSE * 2**attempt)
    return longest * random.uniform(0.75, 1.0)
