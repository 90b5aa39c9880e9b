"""The sampler `vllm` but for vLLM itself: weights, requests, answers, versions, faults.

The server is a stand-in on loopback; test_vllm_server.py has the real one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_in_vllm import GENERATE, StandIn, serving
from tiny import EOS, PAD, VOCABULARY, numbers, tiny_model, tiny_settings
from transformers import PreTrainedModel

from rlhf.common.errors import TrainingError
from rlhf.engine import make_engine
from rlhf.rollout import vllm_client
from rlhf.rollout.local import row_uniforms, sample
from rlhf.rollout.sampler import SamplerPlace, SamplingRule
from rlhf.rollout.vllm import VllmSampler, refuse_kept_weights, request_for, response_in
from rlhf.settings.sampling import VllmSettings
from rlhf.settings.training import EngineSettings
from rlhf.training import loop
from rlhf.workspace import Workspace

RULE = SamplingRule(max_new_tokens=6, eos_id=EOS, pad_id=PAD, temperature=0.7, other_ends=(40,))
PROMPTS = [[2, 9], [2, 10, 11], [2, 12], [2, 13, 14, 15]]
SEEDS = [2**62 + number for number in range(4)]
ANSWERS = json.loads(Path(__file__).with_name("vllm_answers.json").read_text(encoding="utf-8"))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(vllm_client, "_PAUSE", 0.0)
    with serving() as stand_in:
        yield stand_in


def sampler_of(model: PreTrainedModel, settings: VllmSettings, folder: Path) -> VllmSampler:
    engine = make_engine(EngineSettings(threads=1))
    place = SamplerPlace(settings, folder / "sampler", folder / "vllm.log")
    return VllmSampler(model, engine, RULE, place)


# -- requests and answers -------------------------------------------------------------------------


def test_a_request_by_hand() -> None:
    assert request_for([2, 9], 2**62, RULE) == {
        "token_ids": [2, 9],
        "sampling_params": {
            "seed": 2**62,
            "max_tokens": 6,
            "temperature": 0.7,
            "repetition_penalty": 1.0,
            "stop_token_ids": [EOS, 40],
            "ignore_eos": True,
            "logprobs": 0,
            "detokenize": False,
        },
    }


def test_the_likeliest_token_is_asked_for_by_temperature_0_and_no_end_by_none() -> None:
    rule = SamplingRule(max_new_tokens=6, eos_id=-1, pad_id=PAD, greedy=True)
    asked = request_for([2], 1, rule)["sampling_params"]
    assert asked["temperature"] == 0.0 and asked["stop_token_ids"] == []


@pytest.mark.parametrize("name", ["ended", "cut"])
def test_an_answer_of_vllm_is_read(name: str) -> None:
    recorded = ANSWERS[name]
    tokens, logprobs = response_in(recorded["answer"], recorded["version"], recorded_rule(recorded))
    assert len(tokens) == len(logprobs)
    assert all(logprob <= 0 for logprob in logprobs)
    assert (tokens[-1] in recorded["ends"]) == (name == "ended")
    assert (len(tokens) == recorded["max_tokens"]) == (name == "cut")


def recorded_rule(recorded: dict[str, Any]) -> SamplingRule:
    eos, *others = recorded["ends"]
    return SamplingRule(recorded["max_tokens"], eos, PAD, other_ends=tuple(others))


def choice(**changes: Any) -> dict[str, Any]:
    """An answer of three tokens, the last of which ends it, with changes."""
    drawn = [(5, -0.5), (6, -1.5), (EOS, -2.0)]
    content = [{"token_id": token, "logprob": logprob} for token, logprob in drawn]
    whole = {
        "finish_reason": "stop",
        "token_ids": [5, 6, EOS],
        "weight_versions": [{"version": "v1", "start": 0, "end": 3}],
        "logprobs": {"content": content},
    }
    return {"choices": [whole | changes]}


def test_an_answer_by_hand() -> None:
    assert response_in(choice(), "v1", RULE) == ([5, 6, EOS], [-0.5, -1.5, -2.0])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"weight_versions": [{"version": "v0", "start": 0, "end": 3}]},
            "drawn by weights v0 in place of v1",
        ),
        (
            {
                "weight_versions": [
                    {"version": "v0", "start": 0, "end": 1},
                    {"version": "v1", "start": 1, "end": 3},
                ]
            },
            "drawn by weights v0, v1 in place of v1",
        ),
        ({"weight_versions": None}, "drawn by weights without a label in place of v1"),
        ({"token_ids": [5, 6, 7, EOS]}, "4 tokens came with 3 log-probabilities"),
        ({"token_ids": [], "logprobs": {"content": []}}, "0 tokens came with 0 log-probabilities"),
        (
            {"token_ids": [5], "logprobs": {"content": [{"token_id": 5, "logprob": -9999.0}]}},
            "are no numbers",
        ),
        ({"finish_reason": "abort"}, r"broke off after 3 tokens \(abort\)"),
        (
            {
                "token_ids": [5],
                "logprobs": {"content": [{"token_id": 5, "logprob": -1.0}]},
                "finish_reason": "length",
            },
            r"broke off after 1 tokens \(length\); is the server's window",
        ),
        ({"logprobs": None}, "an answer of another form .* must be of vLLM 0.32 or newer"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(TrainingError, match=problem):
        response_in(choice(**changes), "v1", RULE)


def test_a_nucleus_is_refused() -> None:
    rule = SamplingRule(max_new_tokens=6, eos_id=EOS, pad_id=PAD, top_p=0.9)
    place = SamplerPlace(VllmSettings(python="python3"), Path(), Path())
    with pytest.raises(ValueError, match="top_p must be 1"):
        VllmSampler(tiny_model(5), make_engine(EngineSettings(threads=1)), rule, place)


# -- a draw ---------------------------------------------------------------------------------------


def test_responses_are_drawn_by_the_weights_as_they_were_at_the_last_refresh(
    server: StandIn, tmp_path: Path
) -> None:
    model = tiny_model(5, std=0.2)
    sampler = sampler_of(model, server.settings(), tmp_path)
    uniforms = torch.stack([row_uniforms(6, seed) for seed in SEEDS])
    before = sample(model, PROMPTS, uniforms, RULE)
    sampler.refresh()
    with torch.no_grad():
        for value in model.parameters():
            value.mul_(1.5)
    assert sampler.sample(PROMPTS, SEEDS).responses == before.responses
    sampler.refresh()
    now = sample(model, PROMPTS, uniforms, RULE)
    found = sampler.sample(PROMPTS, SEEDS)
    assert found.responses == now.responses != before.responses
    assert found.logprobs[0] == pytest.approx(now.logprobs[0], abs=1e-5)
    # keys and values of the weights before are never read
    assert server.asked["/reset_prefix_cache"] == server.asked["/collective_rpc"] == 2


def test_samplers_of_a_run_take_turns_in_one_server(server: StandIn, tmp_path: Path) -> None:
    policy, reference = (
        sampler_of(tiny_model(seed, std=0.2), server.settings(), tmp_path) for seed in (5, 6)
    )
    policy.refresh()
    of_policy = policy.sample(PROMPTS, SEEDS)
    reference.refresh()
    assert reference.sample(PROMPTS, SEEDS) != of_policy
    # it has the other's weights now
    with pytest.raises(TrainingError, match="in place of"):
        policy.sample(PROMPTS, SEEDS)
    policy.refresh()
    assert policy.sample(PROMPTS, SEEDS) == of_policy
    assert server.asked["/server_info"] == 1


def test_tokens_without_a_name_are_never_drawn(server: StandIn, tmp_path: Path) -> None:
    """Of a model with more embeddings than its tokenizer has tokens."""
    model = tiny_model(5, std=0.2)
    model.resize_token_embeddings(VOCABULARY + 16, mean_resizing=False)
    with torch.no_grad():
        # all that it would say
        model.get_input_embeddings().weight[VOCABULARY:] *= 50
    model.tokens_with_a_name = VOCABULARY
    sampler = sampler_of(model, server.settings(), tmp_path)
    sampler.refresh()
    found = sampler.sample(PROMPTS, SEEDS)
    assert max(max(row) for row in found.responses) < VOCABULARY
    uniforms = torch.stack([row_uniforms(6, seed) for seed in SEEDS])
    assert found.responses == sample(model, PROMPTS, uniforms, RULE).responses


def test_a_server_that_keeps_its_label_is_found_out(server: StandIn, tmp_path: Path) -> None:
    sampler = sampler_of(tiny_model(5), server.settings(), tmp_path)
    server.keeps_label = True
    with pytest.raises(TrainingError, match="drawn by weights default in place of"):
        sampler.refresh()


def test_two_runs_that_take_over_at_once_both_end(server: StandIn, tmp_path: Path) -> None:
    """The other run's label comes first, our weights last: neither draws from what is not its own."""
    ours, others = (
        sampler_of(tiny_model(seed, std=0.2), server.settings(), tmp_path / str(seed))
        for seed in (5, 6)
    )
    server.at_reload = others.refresh
    with pytest.raises(TrainingError, match=r"in place of .* does another run ask the same server"):
        ours.refresh()
    with pytest.raises(TrainingError, match=r"drawn by weights .*-not-alone in place of"):
        others.sample(PROMPTS, SEEDS)


def moved(model: PreTrainedModel, step: float) -> None:
    """Every weight by `step` in some direction, as Adam's step does at that rate."""
    directions = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(step * torch.randn(value.shape, generator=directions).sign())


@pytest.mark.parametrize("draws", [False, True], ids=["before a draw", "after a draw"])
def test_a_server_that_labels_old_weights_as_new_is_found_out_at_the_first_ordinary_step(
    server: StandIn, tmp_path: Path, draws: bool
) -> None:
    """As vLLM may where a layer of its own is passed over."""
    model = tiny_model(5, std=0.2)
    sampler = sampler_of(model, server.settings(), tmp_path)
    sampler.refresh()
    if draws:
        sampler.sample(PROMPTS, SEEDS)
    moved(model, 1e-5)
    sampler.refresh()
    server.keeps_weights = True
    # nothing has changed since
    sampler.refresh()
    moved(model, 1e-5)
    with pytest.raises(TrainingError, match=r"nats a token from .* it has kept old weights"):
        sampler.refresh()
    probe = server.requests[-1]["token_ids"]
    assert probe == (PROMPTS[0] if draws else list(range(8)))


def test_a_server_of_another_model_is_found_out_at_once(server: StandIn, tmp_path: Path) -> None:
    server.keeps_weights = True
    server.model = tiny_model(6, std=0.2)
    sampler = sampler_of(tiny_model(5, std=0.2), server.settings(), tmp_path)
    with pytest.raises(TrainingError, match="it computes another model, or in another precision"):
        sampler.refresh()


@pytest.mark.parametrize(
    ("gap", "before", "is_kept"),
    [
        # new weights: whatever the policy's step was
        (0.03, 0.03, False),
        (0.05, 0.2, False),
        (0.11, 0.05, False),
        # a step within rounding cannot be seen
        (0.1, 0.1, False),
        (0.2, 0.2, True),
        (0.14, 0.2, True),
        (5.0, 0.03, True),
        (float("nan"), 0.2, True),
    ],
)
def test_kept_weights_are_those_that_no_hand_over_brings_nearer(
    gap: float, before: float, is_kept: bool
) -> None:
    if not is_kept:
        refuse_kept_weights(gap, before, rounding=0.03)
        return
    with pytest.raises(TrainingError, match="it has kept old weights"):
        refuse_kept_weights(gap, before, rounding=0.03)


def test_the_weights_go_with_the_sampler(server: StandIn, tmp_path: Path) -> None:
    sampler = sampler_of(tiny_model(5), server.settings(), tmp_path)
    sampler.refresh()
    assert (tmp_path / "sampler" / "weights" / "config.json").is_file()
    del sampler
    assert not (tmp_path / "sampler").exists()


# -- faults ---------------------------------------------------------------------------------------


def test_what_fails_for_a_while_is_asked_again(server: StandIn, tmp_path: Path) -> None:
    sampler = sampler_of(tiny_model(5, std=0.2), server.settings(), tmp_path)
    server.faults = {GENERATE: [500, 429, 503], "/collective_rpc": [500]}
    sampler.refresh()
    found = sampler.sample(PROMPTS, SEEDS)
    # one for the look at the weights
    assert server.asked[GENERATE] == 1 + len(PROMPTS) + 3
    assert sampler.sample(PROMPTS, SEEDS) == found


@pytest.mark.parametrize(
    ("faults", "tries", "problem"),
    [
        ([500] * 9, 3, "no answer to /collective_rpc in 3 tries: status 500: .*as the test wants"),
        ([400], 1, "no answer to /collective_rpc in 1 try: status 400"),
        ([404], 1, "status 404: .*VLLM_SERVER_DEV_MODE=1"),
    ],
)
def test_what_fails_for_good_ends_the_run(
    server: StandIn, tmp_path: Path, faults: list[int], tries: int, problem: str
) -> None:
    sampler = sampler_of(tiny_model(5), server.settings(retries=2), tmp_path)
    server.faults = {"/collective_rpc": faults}
    with pytest.raises(TrainingError, match=problem):
        sampler.refresh()
    assert server.asked["/collective_rpc"] == tries


def test_a_server_whose_log_probabilities_are_those_of_another_temperature_is_refused(
    server: StandIn, tmp_path: Path
) -> None:
    server.logprobs_mode = "raw_logprobs"
    sampler = sampler_of(tiny_model(5), server.settings(), tmp_path)
    with pytest.raises(TrainingError, match="start it with --logprobs-mode processed_logprobs"):
        sampler.refresh()


def test_nobody_at_the_address(unanswered: str, tmp_path: Path) -> None:
    settings = VllmSettings(address=f"http://{unanswered}", start_seconds=0.01)
    with pytest.raises(TrainingError, match=f"vllm at http://{unanswered}: no answer in start_s"):
        sampler_of(tiny_model(5), settings, tmp_path).refresh()


# -- a whole stage --------------------------------------------------------------------------------


def test_a_run_by_a_server_that_draws_as_we_do_has_the_numbers_of_our_own(
    server: StandIn, workspace: Workspace, prepared: Workspace, tmp_path: Path
) -> None:
    """Weights, prompts, seeds, ends and log-probabilities all go where they should."""
    changes = {"ppo.iterations": 2, "ppo.critic.pretraining_iterations": 0}
    sampling = {"temperature": 0.8, "sampler": "vllm", "vllm": server.settings().model_dump()}
    loop.train(tiny_settings({**changes, "ppo.sampling": sampling}), workspace)
    by_server = rewards(workspace)

    loop.train(tiny_settings({**changes, "ppo.sampling": {"temperature": 0.8}}), workspace)
    assert by_server == rewards(workspace)
    # two rollouts and two validations, one after the last update
    assert server.asked["/collective_rpc"] == 4
    assert not list(workspace.checkpoints.rglob("weights"))


def rewards(workspace: Workspace) -> list[dict[str, Any]]:
    rows = numbers(workspace.steps("ppo"))
    assert all(row.get("sampler_logprob_gap", 0.0) < 1e-5 for row in rows)
    kept = ("reward", "response_length", "validation_reward", "finished")
    return [{key: pytest.approx(row[key], abs=1e-5) for key in kept if key in row} for row in rows]
