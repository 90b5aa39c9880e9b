import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import PAD, tiny_model
from torch import Tensor
from transformers import LlamaForCausalLM

from rlhf.batches.padding import TokenBatch, pad, pad_responses
from rlhf.batches.pairs import pad_pairs
from rlhf.common.errors import ModelError
from rlhf.models.backbone import (
    entropy,
    hidden_states,
    pair_hidden_states,
    spread,
    target_logits,
    target_tokens,
    token_logprobs,
)

PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41]]
RESPONSES = [[12, 13, 14, 1], [15, 1], [16]]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    return tiny_model(seed=5, spread=0.2)


@pytest.fixture
def batch() -> TokenBatch:
    return pad_responses(PROMPTS, RESPONSES, PAD)


def naive_logprobs(model: LlamaForCausalLM, temperature: float) -> list[list[float]]:
    """One sequence at a time through transformers' own forward, a log-softmax over everything, one token at a time."""
    found = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
        logprobs = (logits / temperature).log_softmax(dim=1)
        found.append(
            [float(logprobs[len(prompt) - 1 + t, token]) for t, token in enumerate(response)]
        )
    return found


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logits_and_targets_are_aligned(
    model: LlamaForCausalLM, batch: TokenBatch, temperature: float
) -> None:
    with torch.no_grad():
        logits = target_logits(model, hidden_states(model, batch), batch, temperature)
    tokens = target_tokens(batch)
    assert tokens.tolist() == [token for response in RESPONSES for token in response]
    assert logits.dtype == torch.float32
    expected = [value for row in naive_logprobs(model, temperature) for value in row]
    assert token_logprobs(logits, tokens).tolist() == pytest.approx(expected, abs=1e-5)


def test_padding_changes_no_hidden_state(model: LlamaForCausalLM, batch: TokenBatch) -> None:
    wide = [torch.nn.functional.pad(part, (0, 5), value=value) for part, value in zip(
        (batch.input_ids, batch.attention_mask, batch.target_mask), (33, False, False), strict=True
    )]  # fmt: skip
    with torch.no_grad():
        narrow, padded = hidden_states(model, batch), hidden_states(model, TokenBatch(*wide))
        for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
            alone = hidden_states(
                model, pad([[*prompt, *response]], [[True] * len(prompt + response)], PAD)
            )[0]
            torch.testing.assert_close(narrow[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(padded[row, : len(alone)], alone, atol=1e-5, rtol=1e-5)


def test_entropy_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, float(torch.tensor(3.0).log()), -1e9, -1e9]])
    # uniform over four: ln 4; probabilities 1/4 and 3/4: 0.562335
    assert entropy(logits).tolist() == pytest.approx([1.386294, 0.562335], abs=1e-5)
    assert token_logprobs(logits, torch.tensor([2, 1])).exp().tolist() == pytest.approx(
        [0.25, 0.75]
    )


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_spread_is_undone_by_the_mask(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    values = torch.arange(1.0, 1.0 + int(mask.sum()))
    placed = spread(values, mask)
    assert torch.equal(placed[mask], values)
    assert not placed[~mask].any()


def test_spread_keeps_gradients() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    weights: Tensor = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    (spread(values, torch.tensor([[False, True], [True, False]])) * weights).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [4.0, 5.0]


@pytest.mark.parametrize("attention", ["eager", "grouped", "sdpa"])
@torch.no_grad()
def test_each_answer_of_a_pair_has_the_states_of_a_row_of_its_own(
    model: LlamaForCausalLM, attention: str
) -> None:
    others = [[33, 1], [17, 18, 19, 20, 1], [21, 22, 1]]
    before = model.config._attn_implementation
    model.set_attn_implementation(attention)
    found = pair_hidden_states(model, pad_pairs(PROMPTS, RESPONSES, others, PAD))
    model.set_attn_implementation(before)
    for row, (prompt, chosen, rejected) in enumerate(zip(PROMPTS, RESPONSES, others, strict=True)):
        joined = len(prompt) + len(chosen)
        alone = [
            model.base_model(input_ids=torch.tensor([[*prompt, *answer]]))
            for answer in (chosen, rejected)
        ]
        first, second = (output.last_hidden_state[0] for output in alone)
        torch.testing.assert_close(found[row, :joined], first, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            found[row, joined : joined + len(rejected)], second[len(prompt) :], atol=1e-5, rtol=0
        )


def test_a_model_that_looks_back_less_far_than_the_pairs_are_long_is_refused(
    model: LlamaForCausalLM,
) -> None:
    batch = pad_pairs(PROMPTS, RESPONSES, RESPONSES, PAD)
    model.config.sliding_window = 8  # the longest prompt and answer have 8 tokens together
    pair_hidden_states(model, batch)
    model.config.sliding_window = 7
    with pytest.raises(ModelError, match=r"8 tokens of prompt and answer .* sliding window of 7"):
        pair_hidden_states(model, batch)
    del model.config.sliding_window
