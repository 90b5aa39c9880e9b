from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import EOS, PAD, tiny_model
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from rlhf.batches.padding import TokenBatch, pad_responses
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.rollout.sampler import (
    Sampled,
    SamplingRule,
    draw,
    nucleus,
    row_uniforms,
    sample,
    sample_responses,
)

GRID = 20_000  # uniform numbers spread evenly over [0, 1)
PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41], [2, 50, 51, 52]]


def rule(**changes: float) -> SamplingRule:
    return SamplingRule(**{"max_new_tokens": 12, "eos_id": EOS, "pad_id": PAD, **changes})  # type: ignore[arg-type]


def uniforms(rows: int, count: int = 12, seed: int = 0) -> Tensor:
    return torch.stack([row_uniforms(count, seed, "test", row) for row in range(rows)])


def shares(logits: Tensor, seen: Sequence[int], how: SamplingRule) -> Tensor:
    """The share of an even grid of uniform numbers that `draw` maps to each token, [V]."""
    grid = (torch.arange(GRID) + 0.5) / GRID
    rows = logits.repeat(GRID, 1)
    tokens, _ = draw(rows, grid, torch.tensor([list(seen)]).repeat(GRID, 1), how)
    return torch.bincount(tokens, minlength=len(logits)) / GRID


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_model(seed=5, spread=0.2)


# -- one draw -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_draws_follow_the_softmax(temperature: float) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(1)) * 2
    expected = (logits / temperature).softmax(dim=0)
    found = shares(logits, [0], rule(temperature=temperature))
    assert (
        float((found - expected).abs().max()) < 1.5 / GRID
    )  # each token's interval, up to one point of the grid


def test_draws_are_independent_of_the_order_of_the_tokens() -> None:
    logits = torch.tensor([0.0, 5.0, -3.0, 1.0])
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(
        shares(logits, [0], rule())[order],
        shares(logits[order], [0], rule()),
        atol=1.5 / GRID,
        rtol=0,
    )


@pytest.mark.parametrize("top_p", [0.2, 0.5, 0.9, 0.999])
def test_top_p_keeps_exactly_the_nucleus(top_p: float) -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(2)) * 2
    kept = TopPLogitsWarper(top_p)(torch.zeros(1, 1, dtype=torch.int64), logits[None].clone())[0]
    found = shares(logits, [0], rule(top_p=top_p))
    assert (found > 0).tolist() == torch.isfinite(kept).tolist()
    assert float((found - kept.softmax(dim=0)).abs().max()) < 1.5 / GRID


def test_top_p_by_hand() -> None:
    # probabilities 0.5, 0.3, 0.15, 0.05: the smallest set that reaches 0.75 is the first two
    logits = torch.tensor([0.3, 0.05, 0.5, 0.15]).log()
    assert shares(logits, [0], rule(top_p=0.75)).tolist() == pytest.approx(
        [0.375, 0, 0.625, 0], abs=1e-4
    )
    assert shares(logits, [0], rule(top_p=0.4)).tolist() == [0, 0, 1, 0]  # never empty


@pytest.mark.parametrize("temperature", [0.1, 100.0])
def test_the_nucleus_of_a_large_vocabulary_is_the_same_by_any_way(temperature: float) -> None:
    """Among 3000 tokens, a peaked distribution has a nucleus of a few, a flat one of more than are looked at first."""
    logits = torch.randn(2, 3000, generator=torch.Generator().manual_seed(4)) / temperature
    values, order = nucleus(logits.softmax(dim=1), 0.9)
    for row in range(2):
        kept = {
            int(token) for token, value in zip(order[row], values[row], strict=True) if value > 0
        }
        probabilities = logits[row].softmax(dim=0)
        ranked = probabilities.argsort(descending=True).tolist()
        total, expected = 0.0, set()
        for token in ranked:
            if total >= 0.9:
                break
            expected.add(token)
            total += float(probabilities[token])
        assert len(kept ^ expected) <= 1  # the last one, up to rounding of the sum
        assert (len(kept) > 1024) is (temperature == 100.0)
        for token, value in zip(order[row].tolist(), values[row].tolist(), strict=True):
            assert value in (0.0, float(probabilities[token]))


def test_repetition_penalty_is_that_of_transformers() -> None:
    logits = torch.randn(30, generator=torch.Generator().manual_seed(3)) * 3
    seen = [4, 7, 7, 12, 29]  # a token said twice is penalised once
    penalised = RepetitionPenaltyLogitsProcessor(1.4)(torch.tensor([seen]), logits[None].clone())
    expected = TemperatureLogitsWarper(0.8)(torch.tensor([seen]), penalised)[0].softmax(dim=0)
    found = shares(logits, seen, rule(repetition_penalty=1.4, temperature=0.8))
    assert float((found - expected).abs().max()) < 1.5 / GRID


@given(st.floats(0, 1, exclude_max=True, width=32), st.floats(0.05, 1), st.integers(0, 500))
def test_no_impossible_token_is_drawn_even_at_the_ends(
    uniform: float, top_p: float, seed: int
) -> None:
    logits = (
        torch.randn(1, 12, generator=torch.Generator().manual_seed(seed)) * 30
    )  # some probabilities are exactly 0
    tokens, logprobs = draw(
        logits, torch.tensor([uniform]), torch.zeros(1, 1, dtype=torch.int64), rule(top_p=top_p)
    )
    assert float(logits.softmax(dim=1)[0, tokens]) > 0
    assert float(logprobs) == pytest.approx(float(logits.log_softmax(dim=1)[0, tokens]))


def test_uniform_one_below_one_draws_the_last_token_of_a_large_vocabulary() -> None:
    logits = torch.zeros(1, 50_000)
    almost_one = torch.nextafter(torch.ones(1), torch.zeros(1))
    tokens, _ = draw(logits, almost_one, torch.zeros(1, 1, dtype=torch.int64), rule())
    assert 49_900 < int(tokens) < 50_000


# -- whole responses ----------------------------------------------------------------------------------------------------


def full_pass_logprobs(
    model: PreTrainedModel, prompts: list[list[int]], found: Sampled, temperature: float = 1.0
) -> list[list[float]]:
    """Log-probabilities of the responses from one forward pass each, without padding or cache."""
    values = []
    for prompt, response in zip(prompts, found.responses, strict=True):
        batch: TokenBatch = pad_responses([prompt], [response], PAD)
        with torch.no_grad():
            logits = target_logits(model, hidden_states(model, batch), batch, temperature)
        values.append(token_logprobs(logits, target_tokens(batch)).tolist())
    return values


def test_a_response_does_not_depend_on_its_batch_or_its_padding(model: LlamaForCausalLM) -> None:
    numbers = uniforms(len(PROMPTS))
    together = sample(model, PROMPTS, numbers, rule())
    for row, prompt in enumerate(PROMPTS):
        alone = sample(model, [prompt], numbers[row : row + 1], rule())
        assert alone.responses[0] == together.responses[row]
        assert alone.logprobs[0] == pytest.approx(together.logprobs[row], abs=1e-5)


def test_left_padding_changes_nothing_where_positions_are_absolute() -> None:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=64, n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3
    )
    model = GPT2LMHeadModel(config).eval()
    numbers = uniforms(len(PROMPTS))
    together = sample(model, PROMPTS, numbers, rule())
    for own, expected in zip(
        together.logprobs, full_pass_logprobs(model, PROMPTS, together), strict=True
    ):
        assert own == pytest.approx(expected, abs=1e-4)


def test_rows_that_end_leave_without_disturbing_the_others(model: LlamaForCausalLM) -> None:
    prompts = [[2, 5 + row] for row in range(40)]
    numbers = uniforms(40, 20)
    found = sample(model, prompts, numbers, rule(max_new_tokens=20))
    lengths = [len(response) for response in found.responses]
    ended = [response[-1] == EOS for response in found.responses]
    assert 0 < sum(ended) < 40 and len(set(lengths)) > 3  # the case that is meant
    for response, length, end in zip(found.responses, lengths, ended, strict=True):
        assert EOS not in response[:-1]
        assert length == 20 or end
    for row in sorted(range(40), key=lambda row: lengths[row])[
        -5:
    ]:  # those that saw the most others leave
        assert (
            found.responses[row]
            == sample_responses(
                model, [prompts[row]], numbers[row : row + 1], rule(max_new_tokens=20)
            )[0]
        )
    for expected, own in zip(
        full_pass_logprobs(model, prompts, found), found.logprobs, strict=True
    ):
        assert own == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_logprobs_are_those_of_a_full_pass_at_the_same_temperature(
    model: LlamaForCausalLM, temperature: float
) -> None:
    found = sample(model, PROMPTS, uniforms(len(PROMPTS)), rule(temperature=temperature))
    expected = full_pass_logprobs(model, PROMPTS, found, temperature)
    for row, own in zip(expected, found.logprobs, strict=True):
        assert own == pytest.approx(row, abs=1e-5)


def test_follows_a_slow_loop_with_penalty_and_nucleus(model: LlamaForCausalLM) -> None:
    """The same tokens from whole forward passes, transformers' own processors and a cumulative sum."""
    how = rule(temperature=0.8, top_p=0.9, repetition_penalty=1.3)
    numbers = uniforms(len(PROMPTS))
    found = sample_responses(model, PROMPTS, numbers, how)
    for row, prompt in enumerate(PROMPTS):
        said = list(prompt)
        for token in found[row]:
            ids = torch.tensor([said])
            with torch.no_grad():
                logits = model(input_ids=ids).logits[:, -1]
            for processor in (
                RepetitionPenaltyLogitsProcessor(1.3), TemperatureLogitsWarper(0.8), TopPLogitsWarper(0.9)
            ):  # fmt: skip
                logits = processor(ids, logits)
            probabilities, order = logits.softmax(dim=1)[0].sort(descending=True, stable=True)
            place = int((probabilities.cumsum(0) <= numbers[row, len(said) - len(prompt)]).sum())
            assert token == int(order[place])
            said.append(token)


def test_the_limit_holds_and_the_first_token_may_end_it() -> None:
    model = tiny_model(seed=5, spread=0.2)
    assert [
        len(r) for r in sample_responses(model, PROMPTS, uniforms(4, 1), rule(max_new_tokens=1))
    ] == [1] * 4
    always_end = rule(eos_id=sample_responses(model, PROMPTS[:1], uniforms(1), rule())[0][0])
    assert sample_responses(model, PROMPTS[:1], uniforms(1), always_end) == [[always_end.eos_id]]


def test_streams_are_fixed_by_their_names() -> None:
    assert torch.equal(row_uniforms(5, 1, "a", 2), row_uniforms(5, 1, "a", 2))
    assert not torch.equal(row_uniforms(5, 1, "a", 2), row_uniforms(5, 1, "a", 3))
    assert torch.equal(row_uniforms(9, 1, "a", 2)[:5], row_uniforms(5, 1, "a", 2))
    assert float(row_uniforms(1000, 1).min()) >= 0 and float(row_uniforms(1000, 1).max()) < 1
