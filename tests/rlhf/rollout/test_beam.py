"""Beam search against all responses there are, greedy decoding, and the two-token problem."""

from itertools import product
from typing import Any

import pytest
import torch
import two_tokens
from tiny import EOS, tiny_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast
from two_tokens import OPTIMUM, PROBABILITIES

from rlhf.rollout.beam import Beam, beam_search

PROMPT = [2, 3]


def small_model(vocabulary: int, seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.8,
        pad_token_id=0,
        eos_token_id=EOS,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def logprob_of(model: PreTrainedModel, response: list[int]) -> float:
    """log pi of a response, in one pass over the whole."""
    ids = torch.tensor([[*PROMPT, *response]])
    logprobs = model(input_ids=ids).logits[0].log_softmax(dim=1)
    start = len(PROMPT) - 1
    return sum(float(logprobs[start + t, token]) for t, token in enumerate(response))


def all_responses(vocabulary: int, longest: int) -> list[list[int]]:
    """Every response of at most `longest` tokens that has its end token at its end and nowhere else."""
    words = [token for token in range(vocabulary) if token != EOS]
    return [[*body, EOS] for length in range(longest) for body in product(words, repeat=length)]


@pytest.mark.parametrize("seed", range(4))
def test_a_beam_as_wide_as_all_finds_the_likeliest(seed: int) -> None:
    vocabulary, longest = 5, 4
    model = small_model(vocabulary, seed)
    expected = sorted(
        (
            (logprob_of(model, response), response)
            for response in all_responses(vocabulary, longest)
        ),
        reverse=True,
    )
    found = beam_search(model, PROMPT, vocabulary**longest, longest, EOS)
    ended = [beam for beam in found if beam.finished]
    assert len(ended) == len(expected)
    for beam, (logprob, response) in zip(ended, expected, strict=True):
        assert beam.logprob == pytest.approx(logprob, abs=1e-4)
        assert beam.logprob == pytest.approx(logprob_of(model, beam.response), abs=1e-4)
        assert len(beam.response) == len(response) or logprob == pytest.approx(beam.logprob)
    assert ended[0].response == expected[0][1]
    # those that were cut off come last, likeliest first
    cut = found[len(ended) :]
    assert cut and all(len(beam.response) == longest for beam in cut)
    assert [beam.logprob for beam in cut] == sorted((beam.logprob for beam in cut), reverse=True)


@torch.no_grad()
def test_one_beam_is_greedy_decoding() -> None:
    model = tiny_model(3, std=0.2)
    ids = list(PROMPT)
    for _ in range(12):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == EOS:
            break
    (beam,) = beam_search(model, PROMPT, 1, 12, EOS)
    assert beam.response == ids[len(PROMPT) :]
    assert beam.finished is (ids[-1] == EOS)
    assert beam.logprob == pytest.approx(logprob_of(model, beam.response), abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_it_equals_a_search_without_a_cache(seed: int) -> None:
    """Three beams, each prefix read anew; ended ones keep their places."""
    model, width = small_model(7, 10 + seed), 3
    beams = [Beam([], 0.0, finished=False)]
    for _ in range(5):
        found = [beam for beam in beams if beam.finished]
        for beam in beams:
            if not beam.finished:
                for token in range(7):
                    response = [*beam.response, token]
                    ended = token == EOS
                    found.append(Beam(response, logprob_of(model, response), ended))
        beams = sorted(found, key=lambda beam: -beam.logprob)[:width]
    expected = sorted(beams, key=lambda beam: (not beam.finished, -beam.logprob))
    actual = beam_search(model, PROMPT, width, 5, EOS)
    assert [beam.response for beam in actual] == [beam.response for beam in expected]
    for one, other in zip(actual, expected, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


def test_nothing_is_divided_by_the_length() -> None:
    """A response that ends at once costs one token; two likely ones cost more than it in all."""
    found = beam_search(TableModel(torch.tensor([0.2, 0.5, 0.5]), end=0.5), [0], 8, 3, END)
    best = found[0]
    assert best.response == [END] and best.finished
    assert best.logprob == pytest.approx(float(torch.tensor(0.5).log()), abs=1e-6)


# -- the problem of two tokens ---------------------------------------------------------------------

A, B, END = 0, 1, 2


class TableModel(nn.Module):
    """pi(a) in the states start, after a, after b; then the end. `end`: of ending at the start.

    Shaped as the backbone wants a model: hidden states are the logits themselves.
    """

    def __init__(self, chances: Tensor, end: float = 0.0) -> None:
        super().__init__()
        self.chances = nn.Parameter(chances.float())
        self.end = end
        self.config = LlamaConfig(num_hidden_layers=1)
        self.seen: list[list[int]] = []

    @property
    def base_model(self) -> Any:
        return self.read

    def get_output_embeddings(self) -> Any:
        return nn.Identity()

    def read(self, input_ids: Tensor, past_key_values: Any, **_: Any) -> BaseModelOutputWithPast:
        layer = past_key_values
        # the cache holds the tokens themselves as keys
        keys, _values = layer.update(
            input_ids[:, None, :, None].float(), input_ids[:, None, :, None].float(), 0
        )
        rows = keys[:, 0, 1:, 0].long().tolist()
        logits = torch.stack([self.logits(row) for row in rows])
        return BaseModelOutputWithPast(last_hidden_state=logits[:, None])

    def logits(self, response: list[int]) -> Tensor:
        if len(response) == 2:
            chances = torch.tensor([0.0, 0.0, 1.0])
        else:
            of_a = self.chances[0 if not response else 1 + response[0]]
            end = self.end if not response else 0.0
            chances = torch.stack([of_a * (1 - end), (1 - of_a) * (1 - end), torch.tensor(end)])
        return chances.log().clamp(min=-1e4)


def test_the_likeliest_of_the_optimum_is_the_best_response() -> None:
    model: Any = TableModel(OPTIMUM)
    found = beam_search(model, [0], 4, 3, END)
    chances = {tuple(beam.response[:2]): beam.logprob for beam in found}
    expected = dict(zip(two_tokens.RESPONSES, PROBABILITIES, strict=True))
    assert {
        key: float(torch.tensor(value).exp()) for key, value in chances.items()
    } == pytest.approx(expected, abs=1e-5)
    assert found[0].response == [A, A, END] and found[0].finished


def test_a_wide_beam_finds_what_greedy_decoding_misses() -> None:
    """b is likelier at first, but what follows it is spread; ab is the likeliest response."""
    model: Any = TableModel(torch.tensor([0.45, 0.01, 0.5]))
    (greedy,) = beam_search(model, [0], 1, 3, END)
    wide = beam_search(model, [0], 2, 3, END)
    assert greedy.response[0] == B
    assert wide[0].response == [A, B, END] and wide[0].logprob > greedy.logprob
