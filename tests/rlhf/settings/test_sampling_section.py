"""The section `ppo.sampling`: which sampler, its own section, and the cap of its weights."""

from typing import Any

import pytest
from neighbours import ETPO, RLOO, xpo
from tiny import tiny_settings

from rlhf.common.errors import SettingsError
from rlhf.settings.sampling import VllmSettings

PYTHON = {"python": "~/vllm/bin/python"}


def sampling(**changes: Any) -> dict[str, Any]:
    return {"ppo.sampling": {"temperature": 1.0, **changes}}


def test_the_section_of_the_chosen_sampler() -> None:
    assert tiny_settings().ppo.sampling.section is None
    found = tiny_settings(sampling(sampler="vllm", vllm=PYTHON)).ppo.sampling.section
    assert found == VllmSettings(python="~/vllm/bin/python")


@pytest.mark.parametrize("address", ["http://127.0.0.1:8000", "http://localhost:8000"])
def test_a_server_that_runs_on_this_machine(address: str) -> None:
    settings = tiny_settings(sampling(sampler="vllm", vllm={"address": address}))
    assert settings.ppo.sampling.vllm is not None
    assert settings.ppo.sampling.vllm.address == address


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (sampling(sampler="vllm"), "sampler vllm needs the section vllm, such as vllm: {python:"),
        (sampling(vllm=PYTHON), "it must be null for another sampler"),
        (sampling(sampler="vllm", vllm={}), "either python, to start a server, or address"),
        (
            sampling(sampler="vllm", vllm={**PYTHON, "address": "http://127.0.0.1:1"}),
            "either python, to start a server, or address",
        ),
        (sampling(sampler="vllm", vllm={"address": "http://10.0.0.7:8000"}), "http://127.0.0.1:P"),
        (sampling(sampler="vllm", vllm={"address": "http://127.0.0.1"}), "http://127.0.0.1:PORT"),
        (
            sampling(sampler="vllm", vllm={"address": "http://me@127.0.0.1:8000"}),
            "http://127.0.0.1:PORT",
        ),
        (
            sampling(sampler="vllm", vllm={**PYTHON, "arguments": ["--host=0.0.0.0"]}),
            "arguments: --host is the sampler's own to set",
        ),
        (
            sampling(sampler="vllm", vllm={**PYTHON, "arguments": ["--trust_remote_code"]}),
            "arguments: --trust-remote-code is the sampler's own to set",
        ),
        (
            sampling(sampler="vllm", vllm={"address": "http://127.0.0.1:8000", "devices": "1"}),
            "arguments and devices are for a server that is started",
        ),
        (
            sampling(temperature=0.005, sampler="vllm", vllm=PYTHON),
            "temperature: 0.005: sampler vllm has 0.01 as the lowest",
        ),
        (sampling(importance_cap=0.5), "importance_cap: must be greater than or equal to 1"),
        ({**xpo(), **sampling(importance_cap=2.0)}, "algorithm xpo has no loss of single sampled"),
        ({**ETPO, **sampling(importance_cap=2.0)}, "algorithm etpo has no loss of single sampled"),
        # a token's weight would be that of its whole response
        ({**RLOO, **sampling(importance_cap=2.0)}, "algorithm rloo has no loss of single sampled"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        tiny_settings(changes)
    assert message in str(error.value)
