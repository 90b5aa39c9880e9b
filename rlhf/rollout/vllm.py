"""Sampling by a vLLM server: its weights are handed over before each draw.

    refresh: the policy's weights -> a directory (safetensors) -> the server reads it -> a new version
    sample:  prompts as token ids -> tokens, their log-probabilities, and the version that drew them

One process starts the server, or finds it, and hands weights over; all ask it. A response depends on
its prompt, its seed and the weights, up to the rounding of the batches that the server happens to
make. Its random numbers are vLLM's own: the same seed gives other tokens than `local`.
"""

import itertools
import shutil
import uuid
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from rlhf.batches.padding import Ids, pad_responses
from rlhf.common.errors import TrainingError
from rlhf.engine import Engine
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.rollout.records import Sampled
from rlhf.rollout.sampler import SamplerPlace, SamplingRule
from rlhf.rollout.vllm_client import VllmClient
from rlhf.rollout.vllm_server import DTYPES, VllmServer
from rlhf.rollout.vllm_weights import write_weights
from rlhf.settings.sampling import VllmSettings

# in the place of a log-probability that is minus infinity or no number
_NO_LOGPROB = -9999.0
# until a prompt of the run is known: a text without meaning, of ids that every vocabulary has
_FIRST_PROBE = list(range(8))
_PROBE_TOKENS = 16
# nats a token by which two engines may differ; more is another model
_MOST_GAP = {"fp32": 0.01, "bf16": 0.5}
# by which they differ at least; and how much more than at first it may become
_ROUNDING, _LEEWAY = {"fp32": 1e-5, "bf16": 0.02}, 4.0


class VllmSampler:
    """Responses of a vLLM server that has the model's weights."""

    def __init__(
        self, model: PreTrainedModel, engine: Engine, rule: SamplingRule, place: SamplerPlace
    ) -> None:
        assert isinstance(place.settings, VllmSettings)
        if rule.top_p < 1:
            raise ValueError("vllm gives log-probabilities of the nucleus; top_p must be 1")
        self._model, self._engine, self._rule = model, engine, rule
        self._settings, self._place = place.settings, place
        self._hand_over: HandOver | None = None
        self._client: VllmClient | None = None
        self._version = ""

    @torch.no_grad()
    def refresh(self) -> None:
        """Hand the model's present weights over; every process calls it."""
        told: list[tuple[str, str]] = []
        if self._engine.rank == 0:
            if self._hand_over is None:
                self._hand_over = hand_over_in(self._place, self._engine)
            told = [self._hand_over.give(self._model)]
        ((where, self._version),) = self._engine.all_gather(told)
        if self._client is None:
            own = self._hand_over
            self._client = own.client if own else VllmClient(where, self._settings)

    def sample(self, prompts: Sequence[Ids], seeds: Sequence[int]) -> Sampled:
        """One response to each prompt; raises TrainingError where another version gave one."""
        if self._hand_over is not None and prompts:
            self._hand_over.probe_with(prompts[0], self._rule.max_new_tokens)
        with ThreadPoolExecutor(self._settings.concurrency) as pool:
            try:
                pairs = list(pool.map(self._response, prompts, seeds))
            finally:
                pool.shutdown(cancel_futures=True)
        return Sampled([tokens for tokens, _ in pairs], [logprobs for _, logprobs in pairs])

    def _response(self, prompt: Ids, seed: int) -> tuple[list[int], list[float]]:
        assert self._client is not None, "refresh comes first"
        answer = self._client.generate(request_for(prompt, seed, self._rule))
        return response_in(answer, self._version, self._rule)


# -- weights ---------------------------------------------------------------------------------------


class HandOver:
    """The server of one run, which takes over the weights of one model after the other."""

    def __init__(self, place: SamplerPlace, engine: Engine) -> None:
        assert isinstance(place.settings, VllmSettings)
        self._place, self._engine, self._settings = place, engine, place.settings
        # no other run that asks the same server has such a label
        run = uuid.uuid4().hex
        self._versions = (f"{run}-{number}" for number in itertools.count())
        self._server: VllmServer | None = None
        self._client: VllmClient | None = None
        self._probe: tuple[Ids, int] = (_FIRST_PROBE, _PROBE_TOKENS)
        # the gap after the first hand-over
        self._rounding: float | None = None
        weakref.finalize(self, shutil.rmtree, place.folder, ignore_errors=True)

    @property
    def client(self) -> VllmClient:
        assert self._client is not None
        return self._client

    def probe_with(self, prompt: Ids, most_tokens: int) -> None:
        """Look at the weights by a prompt of the run from now on: ordinary steps move what it is about."""
        if self._probe[0] is _FIRST_PROBE:
            self._probe = (prompt, min(_PROBE_TOKENS, most_tokens))

    def give(self, model: PreTrainedModel) -> tuple[str, str]:
        """Where the server is that has the model's weights now, and the label of its version.

        Raises TrainingError where its answers are not those of the model, or another run took over.
        """
        precision = self._engine.precision
        directory = self._place.folder / "weights"
        write_weights(model, directory, DTYPES[precision])
        if self._client is None:
            self._client = self._find_server(directory)
        version = next(self._versions)
        # by the weights before, if they are ours
        before = None if self._rounding is None else self._answer()
        self._client.take_over(directory.absolute(), version)
        after = self._answer()
        try:
            refuse_other_version(after, version)
        except TrainingError:
            # our weights may be under the other run's label: it shall not take them for its own
            self._client.label(f"{version}-not-alone")
            raise
        gap = self._gap(model, after)
        if self._rounding is None:
            self._rounding = max(gap, _ROUNDING[precision])
        else:
            assert before is not None
            refuse_kept_weights(gap, self._gap(model, before), self._rounding)
        if not gap <= _MOST_GAP[precision]:
            raise TrainingError(
                f"vllm: {_handed_over(gap)}: it computes another model, or in another precision"
            )
        return self._client.where, version

    def _answer(self) -> Any:
        """What the server draws after the probe, with the same seed each time."""
        prompt, count = self._probe
        rule = SamplingRule(max_new_tokens=count, eos_id=-1, pad_id=0)
        return self.client.generate(request_for(prompt, 0, rule))

    def _gap(self, model: PreTrainedModel, answer: Any) -> float:
        return gap_to(model, self._engine, self._probe[0], answer)

    def _find_server(self, directory: Path) -> VllmClient:
        address = self._settings.address
        if address is None:
            self._server = VllmServer(self._settings, self._engine, directory, self._place.log)
            return self._server.client
        client = VllmClient(address, self._settings)
        client.wait()
        client.refuse_unfit()
        return client


# by the folder of their weights: the samplers of a run share one server, and take turns in it
_HAND_OVERS: "weakref.WeakValueDictionary[Path, HandOver]" = weakref.WeakValueDictionary()


def hand_over_in(place: SamplerPlace, engine: Engine) -> HandOver:
    """The run's own, made for the first sampler that asks; it goes with the last one."""
    found = _HAND_OVERS.get(place.folder)
    if found is None:
        found = _HAND_OVERS[place.folder] = HandOver(place, engine)
    return found


def refuse_kept_weights(gap: float, gap_before: float, rounding: float) -> None:
    """Raise TrainingError where a server's answer is no nearer to the policy than the one before it took over.

    gap, gap_before: nats a token between server and policy, of its answers after and before
    rounding: what they differ by whose weights are the same; a move within it cannot be seen
    """
    if not gap <= max(_LEEWAY * rounding, gap_before / 2):
        raise TrainingError(
            f"vllm: {_handed_over(gap)}, and were {gap_before:.3g} before: it has kept old weights"
        )


def _handed_over(gap: float) -> str:
    return (
        "after the weights were handed over, the server's log-probabilities are "
        f"{gap:.3g} nats a token from the policy's"
    )


@torch.no_grad()
def gap_to(model: PreTrainedModel, engine: Engine, prompt: Ids, answer: Any) -> float:
    """How far log-probabilities in a server's answer to a prompt are from the model's, nats a token."""
    tokens, logprobs = tokens_in(answer)
    batch = pad_responses([prompt], [tokens], 0).to(engine.device)
    with engine.autocast():
        logits = target_logits(model, hidden_states(model, batch), batch)
    own = token_logprobs(logits, target_tokens(batch))
    return float((own - torch.tensor(logprobs, device=own.device)).abs().mean())


# -- requests and responses ------------------------------------------------------------------------


def request_for(prompt: Ids, seed: int, rule: SamplingRule) -> dict[str, Any]:
    """What `/inference/v1/generate` is asked for one response; JSON."""
    return {
        "token_ids": list(prompt),
        "sampling_params": {
            "seed": seed,
            "max_tokens": rule.max_new_tokens,
            # 0 stands for the likeliest token
            "temperature": 0.0 if rule.greedy else rule.temperature,
            "repetition_penalty": rule.repetition_penalty,
            # no others than ours end a response
            "stop_token_ids": [end for end in rule.ends if end >= 0],
            "ignore_eos": True,
            # of the token that was drawn alone
            "logprobs": 0,
            "detokenize": False,
        },
    }


def response_in(answer: Any, version: str, rule: SamplingRule) -> tuple[list[int], list[float]]:
    """Tokens and their log-probabilities in an answer; raises TrainingError where it is not whole.

    All tokens must have been drawn by the weights labelled `version`.
    """
    tokens, logprobs = tokens_in(answer)
    refuse_other_version(answer, version)
    reason = answer["choices"][0]["finish_reason"]
    is_whole = tokens[-1] in rule.ends or len(tokens) == rule.max_new_tokens
    if reason not in ("stop", "length") or not is_whole:
        raise TrainingError(
            f"vllm: a response broke off after {len(tokens)} tokens ({reason}); is the server's "
            "window (max-model-len) shorter than prompt and response?"
        )
    return tokens, logprobs


def refuse_other_version(answer: Any, version: str) -> None:
    """Raise TrainingError where weights of another label drew a token of an answer."""
    (choice,) = answer["choices"]
    versions = sorted({span["version"] for span in choice["weight_versions"] or ()})
    if versions != [version]:
        raise TrainingError(
            f"vllm: a response was drawn by weights {', '.join(versions) or 'without a label'} in "
            f"place of {version}: does another run ask the same server?"
        )


def tokens_in(answer: Any) -> tuple[list[int], list[float]]:
    """Tokens and their log-probabilities in an answer; raises TrainingError where they do not match."""
    try:
        (choice,) = answer["choices"]
        tokens, content = choice["token_ids"], choice["logprobs"]["content"]
        drawn = [entry["token_id"] for entry in content]
        logprobs = [float(entry["logprob"]) for entry in content]
        choice["weight_versions"], choice["finish_reason"]
    except (KeyError, TypeError, ValueError) as error:
        raise TrainingError(
            f"vllm: an answer of another form ({type(error).__name__}: {error}); the server must "
            "be of vLLM 0.32 or newer"
        ) from None
    if drawn != tokens or not tokens or _NO_LOGPROB in logprobs:
        raise TrainingError(
            f"vllm: {len(tokens)} tokens came with {len(drawn)} log-probabilities that do not "
            "belong to them, or are no numbers: the policy's weights may be broken"
        )
    return tokens, logprobs
