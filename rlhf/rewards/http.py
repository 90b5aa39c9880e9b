"""`http:NAME`: a reward service, asked over HTTP in batches, patiently.

    POST {"records": [{"prompt", "messages", "response", "reference", "kind", "finished", "length"}, ...]}
    ->   {"scores": [0.5, ...]}

A null among the scores says that the service cannot tell. What fails for a while is asked again; what
fails for good ends the run, since a score that was made up would be learnt from.
"""

import json
import logging
import os
import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from string import Template
from urllib.parse import urlsplit

import httpx

from rlhf.common.errors import SettingsError, TrainingError
from rlhf.rewards.answers import checked_scores
from rlhf.rewards.base import RewardContext
from rlhf.rewards.records import ResponseRecord, shortened
from rlhf.settings.rewards import RewardService, is_loopback

# seconds between two tries: at first, and at most; where the service asks for a pause
_PAUSE, _LONGEST_PAUSE, _LONGEST_RETRY_AFTER = 0.5, 60.0, 600.0
# statuses of a service that may answer later
_BUSY = (408, 409, 425, 429)

log = logging.getLogger("rlhf")


class HttpReward:
    """Asks a service of `ppo.reward_services` about all records, several batches at a time."""

    score_std = 1.0

    def __init__(self, context: RewardContext, detail: str) -> None:
        """Raises SettingsError for an environment variable that is not set."""
        self._service = context.settings.ppo.reward_services[detail]
        self._who = f"reward http:{detail}"
        self._url = _filled_in(self._service.url, detail)
        self._key = _key_of(self._service, self._url, detail)
        self._client = _client(self._service, self._url, self._key, detail)
        # set once the run ends: no thread tries anything new
        self._stopped = threading.Event()

    def scores_of(self, records: Sequence[ResponseRecord]) -> Sequence[float | None]:
        """A score each, in order; raises TrainingError where the service gives none."""
        size = self._service.batch
        batches = [records[start : start + size] for start in range(0, len(records), size)]
        self._stopped.clear()
        with ThreadPoolExecutor(self._service.concurrency) as pool:
            try:
                parts = list(pool.map(self._ask, batches))
            finally:
                # wakes threads that pause between two tries
                self._stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)
        return [score for part in parts for score in part]

    # -- one batch ---------------------------------------------------------------------------------

    def _ask(self, records: Sequence[ResponseRecord]) -> list[float | None]:
        """Ask until there is an answer, `retries` times more at most."""
        body = {"records": [record.as_dict() for record in records]}
        for attempt in range(self._service.retries + 1):
            try:
                return self._scores_in(self._post(body), records)
            except _TryLater as error:
                last = error
            if attempt < self._service.retries:
                pause = _pause(attempt, last.asked_for)
                log.warning("%s: %s; asked again in %.1f s", self._who, last, pause)
                self._stopped.wait(pause)
            if self._stopped.is_set():
                break
        raise TrainingError(
            f"{self._who}: {_shown(self._url)} gave no answer in {attempt + 1} tries: {last}; "
            "nothing is learnt from scores that are not there: run the stage again, and it goes on "
            "from its last checkpoint"
        )

    def _post(self, body: object) -> object:
        """The JSON that it answers; raises _TryLater, or TrainingError where trying again is of no use."""
        try:
            response = self._client.post(self._url, json=body)
        except httpx.HTTPError as error:
            raise _TryLater(f"{type(error).__name__}: {self._hidden(str(error))}") from None
        status = response.status_code
        told = f"status {status}: {self._told(response.text)}"
        if status in _BUSY or status >= 500:
            raise _TryLater(told, response.headers.get("retry-after"))
        if status != 200:
            raise TrainingError(f"{self._who}: {_shown(self._url)} says no: {told}")
        try:
            answer: object = response.json()
        # cut in the middle, or a page of a gateway
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise _TryLater(f"no JSON: {self._told(response.text)}") from None
        return answer

    def _scores_in(self, answer: object, records: Sequence[ResponseRecord]) -> list[float | None]:
        if isinstance(answer, dict) and "scores" not in answer:
            keys = self._told(", ".join(map(str, answer)) or "nothing")
            raise TrainingError(
                f'{self._who}: no "scores" in the answer, which has {keys}; expected '
                '{"scores": [...]}, a number for each record'
            )
        found = answer["scores"] if isinstance(answer, dict) else answer
        return checked_scores(found, records, self._who)

    def _told(self, text: str) -> str:
        """The beginning of an answer; what is hidden first cannot be cut in half."""
        return shortened(self._hidden(text))

    def _hidden(self, text: str) -> str:
        """A text without the key, which a service may repeat."""
        return text.replace(self._key, "***") if self._key else text


class _TryLater(Exception):
    """No answer this time; asked_for: seconds of a pause, as the service's header has them."""

    def __init__(self, problem: str, asked_for: str | None = None) -> None:
        super().__init__(problem)
        self.asked_for = asked_for


def _pause(attempt: int, asked_for: str | None) -> float:
    """Seconds before the next try: what the service asks for, or twice as long each time.

    With some chance in it, so that threads do not come back at once.
    """
    try:
        return min(_LONGEST_RETRY_AFTER, max(0.0, float(asked_for or "")))
    # none, or a date
    except ValueError:
        longest = min(_LONGEST_PAUSE, _PAUSE * 2**attempt)
        return longest * random.uniform(0.75, 1.0)


# -- from the settings and the environment ---------------------------------------------------------


def _filled_in(url: str, name: str) -> str:
    key = f"ppo.reward_services.{name}.url"
    try:
        filled = Template(url).substitute(os.environ)
    except KeyError as error:
        raise SettingsError(f"{key}: the environment variable {error.args[0]} is not set") from None
    except ValueError:
        raise SettingsError(f"{key}: `$` begins a variable, as in ${{HOST}}") from None
    if urlsplit(filled).scheme not in ("http", "https") or not urlsplit(filled).hostname:
        raise SettingsError(f"{key}: must come to http://HOST/... or https://HOST/...")
    return filled


def _key_of(service: RewardService, url: str, name: str) -> str:
    variable = service.key_variable
    if variable is None:
        return ""
    where = f"ppo.reward_services.{name}.key_variable"
    key = os.environ.get(variable, "")
    if not key:
        raise SettingsError(f"{where}: {variable} is not set; it holds the key of the service")
    if urlsplit(url).scheme != "https" and not is_loopback(url):
        raise SettingsError(f"{where}: a key is sent over https, or to this machine, alone")
    return key


def _client(service: RewardService, url: str, key: str, name: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        # no proxy between us and this machine
        return httpx.Client(
            headers=headers, timeout=service.timeout_seconds, trust_env=not is_loopback(url)
        )
    # a proxy of a kind that needs another package
    except (ImportError, ValueError) as error:
        raise SettingsError(f"reward http:{name}: the proxy of the environment: {error}") from None


def _shown(url: str) -> str:
    """Where it is, without what may be secret: user, password, query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"
