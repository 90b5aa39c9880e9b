"""PolicySampler: which random stream a response is drawn from."""

from collections.abc import Sequence

import pandas as pd
import pytest
import torch
from tiny import EOS, PAD, prompts_of, tiny_model

from rlhf.batches.padding import Ids
from rlhf.core.seeds import derive_seed, generator
from rlhf.engine import make_engine
from rlhf.rollout.local import LocalSampler, row_uniforms, sample
from rlhf.rollout.prompts import PromptStream
from rlhf.rollout.records import Sampled
from rlhf.rollout.sampler import PolicySampler, SamplingRule, make_sampler
from rlhf.settings.training import EngineSettings

RULE = SamplingRule(max_new_tokens=6, eos_id=EOS, pad_id=PAD)
CPU = torch.device("cpu")
PROMPTS = [[2, 9], [2, 10, 11], [2, 12]]


class Noting:
    """A sampler that notes the seeds that it is given."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self.refreshed = 0

    def refresh(self) -> None:
        self.refreshed += 1

    def sample(self, prompts: Sequence[Ids], seeds: Sequence[int]) -> Sampled:
        assert len(prompts) == len(seeds)
        self.seeds += seeds
        return Sampled([[5, EOS] for _ in prompts], [[-1.0, -1.0] for _ in prompts])


@pytest.fixture
def policy_sampler() -> PolicySampler:
    engine = make_engine(EngineSettings(threads=1))
    sampler = make_sampler("local", tiny_model(5, std=0.2), engine, RULE)
    assert isinstance(sampler, LocalSampler)
    return PolicySampler(sampler, RULE, seed=1, device=CPU)


@pytest.fixture
def stream() -> PromptStream:
    ids = [[2, 5 + n] for n in range(11)]
    table = pd.DataFrame({"prompt_ids": ids, "kind": ["helpful"] * 11})
    return PromptStream(table, [""] * 11, seed=1)


# -- names of streams ---------------------------------------------------------------------------


def test_the_stream_of_a_first_response_is_the_historical_one(
    policy_sampler: PolicySampler,
) -> None:
    """(seed, "rollout", iteration, position), as step logs have been made from the beginning."""
    rollout = policy_sampler.rollout(prompts_of(PROMPTS, positions=[40, 41, 42]), "rollout", 3)
    uniforms = [
        row_uniforms(6, derive_seed(1, "rollout", 3, position)) for position in (40, 41, 42)
    ]
    expected = sample(tiny_model(5, std=0.2), PROMPTS, torch.stack(uniforms), RULE)
    assert rollout.responses == expected.responses


def test_further_responses_have_their_number_in_the_name() -> None:
    sampler = Noting()
    prompts = prompts_of([[2, 9]] * 3, positions=[7, 7, 7], numbers=[0, 1, 2])
    PolicySampler(sampler, RULE, 5, CPU).rollout(prompts, "rollout", 2)
    first = derive_seed(5, "rollout", 2, 7)
    others = [derive_seed(5, "rollout", 2, 7, number) for number in (1, 2)]
    assert sampler.seeds == [first, *others]


def test_a_stream_s_seed_gives_the_stream() -> None:
    names = (5, "rollout", 2, 7, 1)
    expected = torch.rand(9, generator=generator(*names))
    assert torch.equal(row_uniforms(9, derive_seed(*names)), expected)


def test_no_two_responses_of_any_draws_share_a_stream(stream: PromptStream) -> None:
    """Over many iterations of two roles with several responses, and a validation."""
    sampler = Noting()
    policy_sampler = PolicySampler(sampler, RULE, 1, CPU)
    for iteration in range(40):
        prompts = stream.take(iteration, 48, responses=4)
        for draw in ("rollout", "rollout of reference", "rollout of target"):
            policy_sampler.rollout(prompts, draw, iteration)
    policy_sampler.rollout(stream.first(11), "validation")
    assert len(sampler.seeds) == 40 * 48 * 3 + 11
    assert len(set(sampler.seeds)) == len(sampler.seeds)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_in_smaller_batches_the_same_is_drawn(policy_sampler: PolicySampler, size: int) -> None:
    prompts = prompts_of(PROMPTS, positions=[40, 41, 42])
    expected = policy_sampler.rollout(prompts, "rollout", 3)
    sampler = LocalSampler(tiny_model(5, std=0.2), make_engine(EngineSettings(threads=1)), RULE)
    parts = PolicySampler(sampler, RULE, seed=1, device=CPU, batch_size=size)
    drawn = parts.rollout(prompts, "rollout", 3)
    assert drawn.responses == expected.responses
    torch.testing.assert_close(drawn.sampler_logprobs, expected.sampler_logprobs)


def test_names_that_run_together_do_not_coincide() -> None:
    """Iteration 1, position 23 is not iteration 12, position 3; nor response 3 of position 12."""
    sampler = Noting()
    policy_sampler = PolicySampler(sampler, RULE, 1, CPU)
    for iteration in range(25):
        prompts = prompts_of([[2]] * 50, list(range(25)) * 2, [0] * 25 + [3] * 25)
        policy_sampler.rollout(prompts, "rollout", iteration)
    assert len(set(sampler.seeds)) == 25 * 50


# -- what follows from it -----------------------------------------------------------------------


def test_a_row_answers_the_same_on_any_process(policy_sampler: PolicySampler) -> None:
    prompts = prompts_of(PROMPTS, positions=[40, 41, 42])
    together = policy_sampler.rollout(prompts, "rollout", 0)
    alone = policy_sampler.rollout(prompts_of(PROMPTS[1:2], positions=[41]), "rollout", 0)
    assert alone.responses[0] == together.responses[1]


def test_another_draw_answers_otherwise(policy_sampler: PolicySampler) -> None:
    prompts = prompts_of(PROMPTS)
    first = policy_sampler.rollout(prompts, "rollout", 0).responses
    assert policy_sampler.rollout(prompts, "rollout", 0).responses == first
    assert policy_sampler.rollout(prompts, "rollout", 1).responses != first
    assert policy_sampler.rollout(prompts, "rollout of reference", 0).responses != first


def test_another_seed_answers_otherwise() -> None:
    engine = make_engine(EngineSettings(threads=1))
    sampler = make_sampler("local", tiny_model(5, std=0.2), engine, RULE)
    found = [
        PolicySampler(sampler, RULE, seed, CPU).rollout(prompts_of(PROMPTS), "rollout", 0).responses
        for seed in (1, 2)
    ]
    assert found[0] != found[1]


def test_a_rollout_is_made_of_what_was_sampled() -> None:
    sampler = Noting()
    policy_sampler = PolicySampler(sampler, RULE, 1, CPU)
    policy_sampler.refresh()
    rollout = policy_sampler.rollout(prompts_of(PROMPTS), "rollout", 0)
    assert sampler.refreshed == 1
    assert rollout.responses == [[5, EOS]] * 3
    assert rollout.sampler_logprobs.tolist() == [[-1.0, -1.0]] * 3
    assert rollout.finished.tolist() == [True] * 3
