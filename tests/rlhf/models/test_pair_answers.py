"""Both answers' log-probabilities from one row, against each answer in a row of its own."""

import pytest
import torch
from tiny import VOCABULARY, tiny_model
from torch import Tensor
from transformers import LlamaForCausalLM

from rlhf.batches.pairs import PairBatch, pad_pairs
from rlhf.models.backbone import pair_hidden_states
from rlhf.models.pair_answers import answer_logprobs, answer_tokens

PROMPTS = [[2, 5, 6], [2], [2, 9, 10, 11]]
CHOSEN = [[7, 8, 1], [20, 1], [1]]
REJECTED = [[30, 1], [31, 32, 33, 1], [40, 41, 1]]

X = True
_ = False


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Peaked predictions: what predicts a token matters."""
    return tiny_model(3, std=0.2)


def pairs() -> PairBatch:
    return pad_pairs(PROMPTS, CHOSEN, REJECTED, pad_id=0)


@torch.no_grad()
def slow_logprob(model: LlamaForCausalLM, prompt: list[int], answer: list[int]) -> float:
    """log pi of an answer, token by token, each from all that stands before it and nothing else."""
    total = 0.0
    for place, token in enumerate(answer):
        before = torch.tensor([[*prompt, *answer[:place]]])
        logits = model(input_ids=before).logits[0, -1]
        total += float(logits.log_softmax(dim=0)[token])
    return total


def test_places_by_hand() -> None:
    found = answer_tokens(pad_pairs([[5, 6], [7]], [[1], [2, 3]], [[8, 9], [4]], pad_id=0))
    assert found.chosen.tolist() == [[_, _, X, _, _], [_, X, X, _, _]]
    assert found.rejected.tolist() == [[_, _, _, X, X], [_, _, _, X, _]]
    predicting = found.predicting
    assert predicting[found.chosen].tolist() == [1, 0, 1]
    # the first rejected token from the prompt's last, the next from the one before it
    assert predicting[found.rejected].tolist() == [1, 3, 0]


@torch.no_grad()
def test_sums_equal_those_of_each_answer_alone(model: LlamaForCausalLM) -> None:
    found = answer_logprobs(model, pairs())
    expected = [
        [slow_logprob(model, prompt, answer) for answer in (chosen, rejected)]
        for prompt, chosen, rejected in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected), atol=2e-5, rtol=0)
    assert found.dtype == torch.float32


@torch.no_grad()
def test_the_first_rejected_token_is_predicted_from_the_prompt(model: LlamaForCausalLM) -> None:
    """From the end of the chosen answer it would be another number altogether."""
    batch, found = pairs(), answer_tokens(pairs())
    hidden = pair_hidden_states(model, batch)
    logits = model.get_output_embeddings()(hidden).log_softmax(dim=-1)
    for row, rejected in enumerate(REJECTED):
        start = len(PROMPTS[row]) + len(CHOSEN[row])
        right = float(logits[row, len(PROMPTS[row]) - 1, rejected[0]])
        wrong = float(logits[row, start - 1, rejected[0]])
        assert abs(right - wrong) > 0.1
        assert found.predicting[row, start] == len(PROMPTS[row]) - 1

        # a change of the chosen answer's last token leaves the rejected answer's sum alone
        other = [list(answer) for answer in CHOSEN]
        other[row][-1] = 50
        changed = answer_logprobs(model, pad_pairs(PROMPTS, other, REJECTED, pad_id=0))
        assert float(changed[row, 1]) == pytest.approx(
            slow_logprob(model, PROMPTS[row], rejected), abs=2e-5
        )


@torch.no_grad()
def test_padding_and_neighbours_change_nothing(model: LlamaForCausalLM) -> None:
    together = answer_logprobs(model, pairs())
    for row, (prompt, chosen, rejected) in enumerate(zip(PROMPTS, CHOSEN, REJECTED, strict=True)):
        alone = answer_logprobs(model, pad_pairs([prompt], [chosen], [rejected], pad_id=0))
        torch.testing.assert_close(together[row], alone[0], atol=2e-5, rtol=0)


def test_an_answer_gives_gradients_to_itself_alone(model: LlamaForCausalLM) -> None:
    """The chosen sum does not depend on the embedding of a token that is in the rejected answer only."""
    embeddings: Tensor = model.get_input_embeddings().weight
    for column, mine, others in ((0, 7, 30), (1, 30, 7)):
        model.zero_grad()
        batch = pad_pairs(PROMPTS[:1], CHOSEN[:1], REJECTED[:1], pad_id=0)
        # the unembedding is tied: every row of it gets a gradient, so look at the input alone
        taken = torch.zeros(VOCABULARY, embeddings.shape[1], requires_grad=True)
        hook = model.get_input_embeddings().register_forward_hook(
            lambda _module, arguments, output, taken=taken: output + taken[arguments[0]]
        )
        answer_logprobs(model, batch)[0, column].backward()
        hook.remove()
        assert taken.grad is not None
        assert float(taken.grad[others].abs().max()) == 0
        assert float(taken.grad[mine].abs().max()) > 0
