from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import EOS, PAD, prompts_of, tiny_model
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from rlhf.batches.padding import pad_responses
from rlhf.core.seeds import derive_seed
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.rollout.local import (
    draw,
    left_pad,
    nucleus,
    row_uniforms,
    sample,
)
from rlhf.rollout.records import Sampled, make_rollout
from rlhf.rollout.sampler import SamplingRule

# uniform numbers, evenly over [0, 1)
GRID = 20_000
# each token's interval is met up to one point of the grid
WITHIN = 1.5 / GRID
PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41], [2, 50, 51, 52]]


RULE = SamplingRule(max_new_tokens=12, eos_id=EOS, pad_id=PAD)


def rule(**changes: Any) -> SamplingRule:
    return replace(RULE, **changes)


def uniforms(rows: int, count: int = 12, seed: int = 0) -> Tensor:
    return torch.stack([row_uniforms(count, derive_seed(seed, "test", row)) for row in range(rows)])


NOTHING_SEEN = torch.zeros(1, 1, dtype=torch.int64)


def shares(logits: Tensor, seen: Sequence[int], how: SamplingRule) -> Tensor:
    """The share of an even grid of uniform numbers that `draw` maps to each token, [V]."""
    grid = (torch.arange(GRID) + 0.5) / GRID
    rows = logits.repeat(GRID, 1)
    tokens, _ = draw(rows, grid, torch.tensor([list(seen)]).repeat(GRID, 1), how)
    return torch.bincount(tokens, minlength=len(logits)) / GRID


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_model(seed=5, std=0.2)


# -- one draw -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(1)) * 2
    expected = (logits / temperature).softmax(dim=0)
    found = shares(logits, [0], rule(temperature=temperature))
    assert float((found - expected).abs().max()) < WITHIN


def test_draws_are_independent_of_the_order_of_the_tokens() -> None:
    logits = torch.tensor([0.0, 5.0, -3.0, 1.0])
    order = torch.tensor([2, 0, 3, 1])
    ordered_after = shares(logits, [0], RULE)[order]
    ordered_before = shares(logits[order], [0], RULE)
    torch.testing.assert_close(ordered_after, ordered_before, atol=WITHIN, rtol=0)


@pytest.mark.parametrize("top_p", [0.2, 0.5, 0.9, 0.999])
def test_top_p_keeps_exactly_the_nucleus(top_p: float) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(2)) * 2
    processed = TopPLogitsWarper(top_p)(torch.zeros(1, 1, dtype=torch.int64), logits[None].clone())[
        0
    ]
    found = shares(logits, [0], rule(top_p=top_p))
    assert (found > 0).tolist() == torch.isfinite(processed).tolist()
    assert float((found - processed.softmax(dim=0)).abs().max()) < WITHIN


def test_top_p_by_hand() -> None:
    # probabilities 0.5, 0.3, 0.15, 0.05: the smallest set that reaches 0.75 is the first two
    logits = torch.tensor([0.3, 0.05, 0.5, 0.15]).log()
    found = shares(logits, [0], rule(top_p=0.75))
    assert found.tolist() == pytest.approx([0.375, 0, 0.625, 0], abs=1e-4)
    # never empty
    assert shares(logits, [0], rule(top_p=0.4)).tolist() == [0, 0, 1, 0]


def smallest_set(probabilities: Tensor, top_p: float) -> set[int]:
    """The likeliest tokens up to the one that reaches `top_p`."""
    total, tokens = 0.0, set()
    for token in probabilities.argsort(descending=True).tolist():
        if total >= top_p:
            break
        tokens.add(token)
        total += float(probabilities[token])
    return tokens


@pytest.mark.parametrize("temperature", [0.1, 100.0])
def test_the_nucleus_of_a_large_vocabulary_is_the_same_by_any_way(temperature: float) -> None:
    """Of 3000 tokens, a peaked distribution has a small nucleus, a flat one a very large one."""
    logits = torch.randn(2, 3000, generator=torch.Generator().manual_seed(4)) / temperature
    values, order = nucleus(logits.softmax(dim=1), 0.9)
    for row in range(2):
        probabilities = logits[row].softmax(dim=0)
        pairs = list(zip(order[row].tolist(), values[row].tolist(), strict=True))
        for token, value in pairs:
            assert value in (0.0, float(probabilities[token]))
        inside = {token for token, value in pairs if value > 0}
        # more than are looked at first
        assert (len(inside) > 1024) is (temperature == 100.0)
        # the last one is in or out by the rounding of the sum
        assert len(inside ^ smallest_set(probabilities, 0.9)) <= 1


def test_repetition_penalty_is_that_of_transformers() -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(3)) * 3
    # a token said twice is penalised once
    seen = [4, 7, 7, 12, 29]
    penalised = RepetitionPenaltyLogitsProcessor(1.4)(torch.tensor([seen]), logits[None].clone())
    expected = TemperatureLogitsWarper(0.8)(torch.tensor([seen]), penalised)[0].softmax(dim=0)
    found = shares(logits, seen, rule(repetition_penalty=1.4, temperature=0.8))
    assert float((found - expected).abs().max()) < WITHIN


@given(st.floats(0, 1, exclude_max=True, width=32), st.floats(0.05, 1), st.integers(0, 500))
def test_no_impossible_token_is_drawn_even_at_the_ends(
    uniform: float, top_p: float, seed: int
) -> None:
    # some probabilities are exactly 0
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(seed)) * 30
    tokens, logprobs = draw(logits, torch.tensor([uniform]), NOTHING_SEEN, rule(top_p=top_p))
    assert float(logits.softmax(dim=1)[0, tokens]) > 0
    assert float(logprobs) == pytest.approx(float(logits.log_softmax(dim=1)[0, tokens]))


def test_uniform_one_below_one_draws_the_last_token_of_a_large_vocabulary() -> None:
    logits = torch.zeros(1, 50_000)
    almost_one = torch.nextafter(torch.ones(1), torch.zeros(1))
    tokens, _ = draw(logits, almost_one, NOTHING_SEEN, RULE)
    assert 49_900 < int(tokens) < 50_000


def test_greedy_takes_the_likeliest_whatever_the_uniform() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0]])
    for uniform in (0.0, 0.999):
        how = rule(greedy=True)
        tokens, logprobs = draw(logits, torch.tensor([uniform]), NOTHING_SEEN, how)
        assert tokens.tolist() == [1]
        assert float(logprobs) == pytest.approx(float(logits.log_softmax(dim=1)[0, 1]))


def test_greedy_takes_the_likeliest_after_the_penalty_on_what_was_said() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.5]])
    seen = torch.tensor([[1]])
    for penalty, likeliest in ((1.0, 1), (1.2, 1), (1.5, 2)):
        how = rule(greedy=True, repetition_penalty=penalty)
        assert draw(logits, torch.tensor([0.5]), seen, how)[0].tolist() == [likeliest]


# -- whole responses ----------------------------------------------------------------------------


def full_pass_logprobs(
    model: PreTrainedModel, prompts: list[list[int]], found: Sampled, temperature: float = 1.0
) -> list[list[float]]:
    """Log-probabilities of the responses from one forward pass each, without padding or cache."""
    values = []
    for prompt, response in zip(prompts, found.responses, strict=True):
        batch = pad_responses([prompt], [response], PAD)
        with torch.no_grad():
            logits = target_logits(model, hidden_states(model, batch), batch, temperature)
        values.append(token_logprobs(logits, target_tokens(batch)).tolist())
    return values


def test_a_response_does_not_depend_on_its_batch_or_its_padding(model: LlamaForCausalLM) -> None:
    numbers = uniforms(len(PROMPTS))
    together = sample(model, PROMPTS, numbers, RULE)
    for row, prompt in enumerate(PROMPTS):
        alone = sample(model, [prompt], numbers[row : row + 1], RULE)
        assert alone.responses[0] == together.responses[row]
        assert alone.logprobs[0] == pytest.approx(together.logprobs[row], abs=1e-5)


def test_left_padding_changes_nothing_where_positions_are_absolute() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3
    )
    model = GPT2LMHeadModel(config).eval()
    together = sample(model, PROMPTS, uniforms(len(PROMPTS)), RULE)
    alone = full_pass_logprobs(model, PROMPTS, together)
    for found, expected in zip(together.logprobs, alone, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)


def test_padding_is_in_front() -> None:
    ids, mask = left_pad([[5, 6, 7], [8]], PAD, torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [PAD, PAD, 8]]
    assert mask.tolist() == [[True] * 3, [False, False, True]]


def test_rows_that_end_leave_without_disturbing_the_others(model: LlamaForCausalLM) -> None:
    prompts = [[2, 5 + row] for row in range(40)]
    numbers, how = uniforms(40, 20), rule(max_new_tokens=20)
    found = sample(model, prompts, numbers, how)
    lengths = [len(response) for response in found.responses]
    ended = [response[-1] == EOS for response in found.responses]
    # the case that is meant
    assert 0 < sum(ended) < 40 and len(set(lengths)) > 3
    for response, length, end in zip(found.responses, lengths, ended, strict=True):
        assert EOS not in response[:-1]
        assert length == 20 or end

    # the five that saw most others leave
    longest = sorted(range(40), key=lambda row: lengths[row])[-5:]
    for row in longest:
        alone = sample(model, [prompts[row]], numbers[row : row + 1], how)
        assert alone.responses == [found.responses[row]]
    expected = full_pass_logprobs(model, prompts, found)
    for row, logprobs in zip(expected, found.logprobs, strict=True):
        assert logprobs == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_logprobs_are_those_of_a_full_pass_at_the_same_temperature(
    model: LlamaForCausalLM, temperature: float
) -> None:
    found = sample(model, PROMPTS, uniforms(len(PROMPTS)), rule(temperature=temperature))
    expected = full_pass_logprobs(model, PROMPTS, found, temperature)
    for row, logprobs in zip(expected, found.logprobs, strict=True):
        assert logprobs == pytest.approx(row, abs=1e-5)


@torch.no_grad()
def slow_response(model: PreTrainedModel, prompt: list[int], numbers: list[float]) -> list[int]:
    """Whole forward passes, transformers' own processors, and a cumulative sum."""
    processors = (
        RepetitionPenaltyLogitsProcessor(1.3),
        TemperatureLogitsWarper(0.8),
        TopPLogitsWarper(0.9),
    )
    response: list[int] = []
    for uniform in numbers:
        ids = torch.tensor([prompt + response])
        logits = model(input_ids=ids).logits[:, -1]
        for processor in processors:
            logits = processor(ids, logits)
        probabilities, order = logits.softmax(dim=1)[0].sort(descending=True, stable=True)
        place = int((probabilities.cumsum(0) <= uniform).sum())
        response.append(int(order[place]))
        if response[-1] == EOS:
            break
    return response


def test_follows_a_slow_loop_with_penalty_and_nucleus(model: LlamaForCausalLM) -> None:
    how = rule(temperature=0.8, top_p=0.9, repetition_penalty=1.3)
    numbers = uniforms(len(PROMPTS))
    found = sample(model, PROMPTS, numbers, how)
    for prompt, row, response in zip(PROMPTS, numbers.tolist(), found.responses, strict=True):
        assert response == slow_response(model, prompt, row)


def test_the_limit_holds(model: LlamaForCausalLM) -> None:
    found = sample(model, PROMPTS, uniforms(4, 1), rule(max_new_tokens=1))
    assert [len(response) for response in found.responses] == [1] * 4


def test_the_first_token_may_end_a_response(model: LlamaForCausalLM) -> None:
    first = sample(model, PROMPTS[:1], uniforms(1), RULE).responses[0][0]
    found = sample(model, PROMPTS[:1], uniforms(1), rule(eos_id=first))
    assert found.responses == [[first]]


def test_every_token_that_ends_a_response_ends_it(model: LlamaForCausalLM) -> None:
    free = sample(model, PROMPTS, uniforms(4), RULE).responses
    others = (free[0][1], free[2][3])
    found = sample(model, PROMPTS, uniforms(4), rule(other_ends=others)).responses
    for response, whole in zip(found, free, strict=True):
        places = [place for place, token in enumerate(whole) if token in (EOS, *others)]
        assert response == whole[: places[0] + 1 if places else None]
    batch = prompts_of(PROMPTS)
    sampled = Sampled(found, [[0.0] * len(response) for response in found])
    made = make_rollout(batch, sampled, EOS, PAD, torch.device("cpu"), others)
    assert made.finished.tolist() == [response[-1] in (EOS, *others) for response in found]
    assert made.finished[0] and made.finished[2]


# -- streams ------------------------------------------------------------------------------------


def test_streams_are_fixed_by_their_names() -> None:
    seed, other = derive_seed(1, "a", 2), derive_seed(1, "a", 3)
    assert torch.equal(row_uniforms(5, seed), row_uniforms(5, seed))
    assert not torch.equal(row_uniforms(5, seed), row_uniforms(5, other))
    assert torch.equal(row_uniforms(9, seed)[:5], row_uniforms(5, seed))
    assert float(row_uniforms(1000, 1).min()) >= 0 and float(row_uniforms(1000, 1).max()) < 1
