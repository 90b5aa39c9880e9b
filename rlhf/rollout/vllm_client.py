"""What is asked of a vLLM server over HTTP, patiently; as of vLLM 0.32.

/inference/v1/generate   tokens in, tokens and their log-probabilities out
/collective_rpc          reload_weights: from a directory
/reset_prefix_cache      keys and values that the weights before have left
/update_weight_version   a label, which comes back with every token that is drawn from then on
"""

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

from rlhf.common.errors import TrainingError
from rlhf.settings.sampling import VllmSettings

# in the place of http://, before the path of a socket
UNIX = "unix:"
# of the distribution that is drawn from, temperature included
LOGPROBS_MODE = "processed_logprobs"

# seconds between two looks at a server that starts; between two tries, at first
_LOOK, _PAUSE = 0.5, 1.0
# characters that are told of an answer
_SHOWN = 300
# statuses of a server that may answer later
_BUSY = (408, 425, 429)


class VllmClient:
    """Asks one server; threads may share it.

    where: http://127.0.0.1:PORT, or unix: and the path of a socket
    fault: says what became of a server that has ended, where this process started it
    """

    def __init__(
        self,
        where: str,
        settings: VllmSettings,
        fault: Callable[[], str | None] = lambda: None,
    ) -> None:
        self.where = where
        self._settings, self._fault = settings, fault
        socket = where.removeprefix(UNIX) if where.startswith(UNIX) else None
        # as many connections as threads ask
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.Client(
            base_url=where if socket is None else "http://vllm",
            # no proxy between us and this machine
            transport=httpx.HTTPTransport(uds=socket, limits=limits, trust_env=False),
            timeout=settings.timeout_seconds,
        )

    # -- a server as a whole -----------------------------------------------------------------------

    def wait(self) -> None:
        """Wait until the server answers; raises TrainingError once it has ended, or takes too long."""
        end = time.monotonic() + self._settings.start_seconds
        while True:
            try:
                if self._client.get("/health", timeout=10).status_code == httpx.codes.OK:
                    return
                problem = "it is not healthy"
            except httpx.HTTPError as error:
                problem = _told(error)
            self._refuse_dead()
            if time.monotonic() > end:
                seconds = f"{self._settings.start_seconds:g} s"
                raise self._error(f"no answer in start_seconds: {seconds}: {problem}")
            time.sleep(_LOOK)

    def refuse_unfit(self) -> None:
        """Look at how somebody else has started the server; raises TrainingError."""
        info = self._ask("GET", "/server_info?config_format=json")
        mode = info["vllm_config"]["model_config"]["logprobs_mode"]
        if mode != LOGPROBS_MODE:
            raise self._error(
                f"its log-probabilities are {mode}; start it with --logprobs-mode {LOGPROBS_MODE}: "
                "the losses need those of the distribution that it draws from"
            )

    def take_over(self, directory: Path, version: str) -> None:
        """Let the server read the weights in a directory; what it draws from then on is `version`.

        The label comes first: another run that still draws finds at once that it is not alone.
        """
        self.label(version)
        reload = {"method": "reload_weights", "kwargs": {"weights_path": str(directory)}}
        self._ask("POST", "/collective_rpc", reload)
        if not self._ask("POST", "/reset_prefix_cache")["success"]:
            raise self._error("it holds on to its prefix cache; does anybody else ask it?")

    def label(self, version: str) -> None:
        """Let the server say of all that it draws from now on that `version` drew it."""
        self._ask("POST", "/update_weight_version", {"new_version": version})

    # -- a response --------------------------------------------------------------------------------

    def generate(self, request: Mapping[str, Any]) -> Any:
        """What the server answers to a request for tokens."""
        return self._ask("POST", "/inference/v1/generate", request)

    # -- helpers -----------------------------------------------------------------------------------

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask until there is an answer, `retries` times more at most; raises TrainingError.

        Whatever is asked may be asked twice: the same seed gives the same tokens.
        """
        problems: list[str] = []
        for attempt in range(self._settings.retries + 1):
            if attempt:
                time.sleep(_PAUSE * 2 ** (attempt - 1))
            try:
                response = self._client.request(method, path, json=body)
                if response.status_code == httpx.codes.OK:
                    return response.json() if response.content else None
                problems.append(f"status {response.status_code}: {_shortened(response.text)}")
            # ValueError: an answer that was cut
            except (httpx.HTTPError, ValueError) as error:
                problems.append(_told(error))
            else:
                if response.status_code < 500 and response.status_code not in _BUSY:
                    problems[-1] += _HINTS.get(response.status_code, "")
                    break
            self._refuse_dead()
        tries = f"{len(problems)} tries" if len(problems) > 1 else "1 try"
        # weights that it cannot read end a server: the first says why, the others that it is gone
        told = "; then ".join(dict.fromkeys(problems))
        raise self._error(f"no answer to {path} in {tries}: {told}")

    def _refuse_dead(self) -> None:
        fault = self._fault()
        if fault is not None:
            raise self._error(fault)

    def _error(self, problem: str) -> TrainingError:
        return TrainingError(f"vllm at {self.where}: {problem}")


_HINTS = {
    404: "; a server takes weights over with VLLM_SERVER_DEV_MODE=1, and is of vLLM 0.32 or newer",
}


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {_shortened(str(error))}"


def _shortened(text: str) -> str:
    """The beginning of what a server said, on one line."""
    line = re.sub(r"\s+", " ", text).strip()
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."
