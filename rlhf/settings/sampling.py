"""The settings of sampling: how rollouts are drawn, by whom, and what is done about a gap."""

import re
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from rlhf.registry import SAMPLERS
from rlhf.settings.rewards import is_loopback
from rlhf.settings.section import Count, CountOrZero, Positive, Section, one_of

# what the sampler says to the server itself; rlhf/rollout/vllm_server.py
_OWN_ARGUMENTS = (
    "model",
    "tokenizer",
    "served-model-name",
    "host",
    "port",
    "uds",
    "api-key",
    "dtype",
    "logprobs-mode",
    "generation-config",
    "skip-tokenizer-init",
    "kv-cache-memory-bytes",
    "trust-remote-code",
)


class VllmSettings(Section):
    """The vLLM server of the sampler `vllm`: started by the stage, or one that runs on this machine."""

    # a file names what it changes: no number is meant to depend on them
    LATER: ClassVar = frozenset(
        {
            *("python", "address", "cache_gib", "devices", "arguments"),
            *("concurrency", "start_seconds", "timeout_seconds", "retries"),
        }
    )
    # how the server is run: what it is told to compute does not depend on them
    OPERATION: ClassVar = LATER - {"arguments"}

    # the python of vLLM's own environment, by which the stage starts the server
    python: str | None = None
    # http://127.0.0.1:PORT of a server that runs already
    address: str | None = None
    # of the server's key-value cache
    cache_gib: Positive = 4.0
    # the GPUs that the server sees (CUDA_VISIBLE_DEVICES); null: those that the stage sees
    devices: str | None = None
    # further ones of `vllm serve`
    arguments: tuple[str, ...] = ()
    # requests at a time, of each process
    concurrency: Count = 64
    # until it answers
    start_seconds: Positive = 900.0
    # of a request
    timeout_seconds: Positive = 900.0
    # further tries of a request that failed, while the server lives
    retries: CountOrZero = 3

    @model_validator(mode="after")
    def _one_server(self) -> Self:
        if (self.python is None) == (self.address is None):
            raise ValueError(
                "either python, to start a server, or address, of one that runs, and null for the other"
            )
        return self

    @model_validator(mode="after")
    def _on_this_machine(self) -> Self:
        address = self.address
        is_plain = address is not None and re.fullmatch(r"http://[^/@?#]+:[0-9]+", address)
        if address is not None and not (is_plain and is_loopback(address)):
            raise ValueError(
                "address: expected http://127.0.0.1:PORT; the server reads the weights from this "
                "machine's disk, and whoever reaches it may change them"
            )
        return self

    @model_validator(mode="after")
    def _further_arguments(self) -> Self:
        for argument in self.arguments:
            name = argument.partition("=")[0].lstrip("-").replace("_", "-")
            if name in _OWN_ARGUMENTS:
                raise ValueError(f"arguments: --{name} is the sampler's own to set")
        if self.address is not None and (self.arguments or self.devices is not None):
            raise ValueError("arguments and devices are for a server that is started, by python")
        return self


# below it vLLM draws at this temperature
_LEAST_TEMPERATURE = 0.01


class Sampling(Section):
    """How rollouts are sampled; the losses take log-probabilities from this very distribution."""

    LATER: ClassVar = frozenset({"sampler", "batch_size", "importance_cap", "vllm"})

    temperature: Positive = 1.0
    sampler: Annotated[str, one_of(SAMPLERS)] = "local"
    # responses that a process draws at once: the cache of keys and values grows with it; null: all
    batch_size: Count | None = None
    # C: a token's loss is weighed by min(pi / mu, C), pi the policy and mu the sampler; null: by 1
    importance_cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
    # the section of sampler vllm
    vllm: VllmSettings | None = None

    @property
    def section(self) -> Section | None:
        """The section of the sampler that is chosen; it has the sampler's name."""
        section = getattr(self, self.sampler.replace("-", "_"), None)
        return section if isinstance(section, Section) else None

    @model_validator(mode="after")
    def _temperature_of_the_sampler(self) -> Self:
        if self.sampler == "vllm" and self.temperature < _LEAST_TEMPERATURE:
            raise ValueError(
                f"temperature: {self.temperature:g}: sampler vllm has {_LEAST_TEMPERATURE:g} as the "
                "lowest; the losses would divide by another than it drew with"
            )
        return self

    @model_validator(mode="after")
    def _section_of_the_sampler(self) -> Self:
        if (self.sampler == "vllm") != (self.vllm is not None):
            raise ValueError(
                "sampler vllm needs the section vllm, such as vllm: {python: ~/vllm/bin/python}; "
                "it must be null for another sampler"
            )
        return self
