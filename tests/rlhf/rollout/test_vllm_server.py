"""vLLM itself: RLHF_VLLM_PYTHON=~/vllm/bin/python make test-long, or pytest -m long of this file.

The server of the first tests is one; the stage starts its own.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tiny import EOS, PAD, START, VOCABULARY, numbers, tiny_settings, tiny_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.batches.padding import pad_responses
from rlhf.common.errors import TrainingError
from rlhf.engine import make_engine
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.models.heads import new_scalar_model, save_scalar_model
from rlhf.models.saving import save_causal_lm
from rlhf.rollout.local import sample
from rlhf.rollout.records import Sampled
from rlhf.rollout.sampler import SamplerPlace, SamplingRule
from rlhf.rollout.vllm import HandOver, VllmSampler, hand_over_in
from rlhf.settings.sampling import VllmSettings
from rlhf.settings.training import EngineSettings
from rlhf.training import loop
from rlhf.workspace import Workspace
from tests.waiting import wait_until_gone

PYTHON = os.environ.get("RLHF_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(not PYTHON, reason="RLHF_VLLM_PYTHON names no python of vLLM's environment"),
]

# 64 MiB, what a tiny model needs
SETTINGS: dict[str, Any] = {"python": PYTHON, "cache_gib": 0.0625, "start_seconds": 3600.0}
ENGINE = make_engine(EngineSettings(threads=1))
PROMPTS = [[2, *range(5, 5 + length)] for length in (1, 2, 3, 7, 12, 20, 33)]
SEEDS = list(range(100, 100 + len(PROMPTS)))
RULE = SamplingRule(max_new_tokens=24, eos_id=EOS, pad_id=PAD, temperature=0.7)


def wide_model(seed: int, tied: bool = True) -> LlamaForCausalLM:
    """As `tiny_model`, with heads of 32: vLLM has no narrower ones on a CPU."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        initializer_range=0.2,
        tie_word_embeddings=tied,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=START,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SamplerPlace]:
    """Of a server that all samplers there take turns in."""
    folder = tmp_path_factory.mktemp("vllm")
    where = SamplerPlace(VllmSettings.model_validate(SETTINGS), folder / "w", folder / "vllm.log")
    kept: HandOver = hand_over_in(where, ENGINE)
    yield where
    del kept


def drawn(place: SamplerPlace, seed: int, rule: SamplingRule = RULE) -> Sampled:
    """Responses of the tiny model of a seed."""
    sampler = VllmSampler(wide_model(seed), ENGINE, rule, place)
    sampler.refresh()
    return sampler.sample(PROMPTS, SEEDS)


@pytest.mark.parametrize("seed", [5, 6, 5], ids=["first", "other weights", "first again"])
def test_the_likeliest_tokens_are_those_of_our_own_sampler(place: SamplerPlace, seed: int) -> None:
    """Token for token in fp32, and after each hand-over those of the new weights."""
    rule = SamplingRule(max_new_tokens=24, eos_id=EOS, pad_id=PAD, greedy=True)
    uniforms = torch.zeros(len(PROMPTS), 24)
    expected = sample(wide_model(seed), PROMPTS, uniforms, rule)
    found = drawn(place, seed, rule)
    assert found.responses == expected.responses
    for row, other in zip(found.logprobs, expected.logprobs, strict=True):
        assert row == pytest.approx(other, abs=1e-4)


def test_log_probabilities_are_those_of_the_tempered_policy(place: SamplerPlace) -> None:
    found = drawn(place, 5)
    batch = pad_responses(PROMPTS, found.responses, PAD)
    model = wide_model(5)
    with torch.no_grad():
        logits = target_logits(model, hidden_states(model, batch), batch, 0.7)
    logprobs = token_logprobs(logits, target_tokens(batch)).tolist()
    assert [value for row in found.logprobs for value in row] == pytest.approx(logprobs, abs=1e-4)


def test_the_same_seeds_give_the_same_tokens_and_others_others(place: SamplerPlace) -> None:
    sampler = VllmSampler(wide_model(5), ENGINE, RULE, place)
    sampler.refresh()
    first = sampler.sample(PROMPTS, SEEDS)
    assert sampler.sample(PROMPTS, SEEDS).responses == first.responses
    others = [seed + 1000 for seed in SEEDS]
    assert sampler.sample(PROMPTS, others).responses != first.responses


def test_any_end_ends_a_response(place: SamplerPlace) -> None:
    plain = drawn(place, 5)
    common = Counter(token for row in plain.responses for token in row[:-1]).most_common(1)
    ((token, _),) = common
    rule = SamplingRule(24, EOS, PAD, temperature=0.7, other_ends=(token,))
    responses = drawn(place, 5, rule).responses
    assert any(row[-1] == token for row in responses)
    for row, before in zip(responses, plain.responses, strict=True):
        ends = [place for place, one in enumerate(before) if one in (EOS, token)]
        assert row == (before[: ends[0] + 1] if ends else before)


def test_tokens_are_drawn_as_often_as_the_policy_says(place: SamplerPlace) -> None:
    rule = SamplingRule(max_new_tokens=1, eos_id=EOS, pad_id=PAD, temperature=0.7)
    model, count = wide_model(5), 1000
    sampler = VllmSampler(model, ENGINE, rule, place)
    sampler.refresh()
    responses = sampler.sample([[2, 9]] * count, list(range(count))).responses
    found = torch.bincount(torch.tensor(responses).flatten(), minlength=64) / count
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[2, 9]])).logits[0, -1]
    expected = (logits / 0.7).softmax(0)
    # half the sum over 64 tokens of their standard deviations is at most sqrt(64 / 1000) / 2
    assert 0.5 * float((found - expected).abs().sum()) < 0.13


def test_a_prompt_beyond_the_window_is_refused_as_vllm_says(place: SamplerPlace) -> None:
    sampler = VllmSampler(wide_model(5), ENGINE, RULE, place)
    sampler.refresh()
    with pytest.raises(
        TrainingError, match="no answer to /inference/v1/generate in 1 try: status 4"
    ):
        sampler.sample([[2] * 300], [1])


def test_a_whole_stage(workspace: Workspace) -> None:
    """Gap and first ratio are rounding; the server and its weights are gone afterwards."""
    for name in ("base", "sft"):
        save_causal_lm(wide_model(7), tiny_tokenizer(), workspace.model(name))
    reward = new_scalar_model(workspace.model("sft"), 2, "reward")
    save_scalar_model(reward, tiny_tokenizer(), workspace.model("reward"), "reward", score_std=0.5)
    sampling = {"temperature": 0.8, "sampler": "vllm", "vllm": SETTINGS, "importance_cap": 2.0}
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    loop.train(tiny_settings({"ppo.sampling": sampling}), workspace)
    rows = [row for row in numbers(workspace.steps("ppo")) if "reward" in row]
    learnt = [row for row in rows if row["step"] >= 0]
    assert len(learnt) == 4
    assert all(row["sampler_logprob_gap"] < 1e-4 for row in rows)
    assert all(row["first_ratio_deviation"] < 1e-6 for row in learnt)
    assert all(row["sampler_weight"] == pytest.approx(1.0, abs=1e-4) for row in rows)
    assert all(row["sampler_weight_capped"] == 0.0 for row in rows)
    started = {process.pid for process in psutil.Process().children(recursive=True)} - before
    wait_until_gone(*started)
    assert not list(workspace.checkpoints.rglob("weights"))
    assert (Path(workspace.logs) / "vllm.log").is_file()
