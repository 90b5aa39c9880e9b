"""The floor's count of operations beside torch's own counter."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.floor import Machine, ppo_work
from tests.benchmarks.made_up import EOS, let_it_end, random_model, random_prompts

SHAPE = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
ROWS, PROMPT, RESPONSE = 2, 5, 3


def matrix_products(action: object) -> int:
    """Operations of the matrix products of weights within a call; attention's own are batched."""
    with FlopCounterMode(display=False) as counter:
        action()  # type: ignore[operator]
    counts = counter.get_flop_counts()["Global"]
    return sum(counts.get(name, 0) for name in (torch.ops.aten.mm, torch.ops.aten.addmm))


def test_ten_passes_through_the_blocks_and_five_through_the_head() -> None:
    model = random_model(2, seed=0, shape=SHAPE)
    ids = torch.randint(3, 96, (ROWS, PROMPT + RESPONSE))
    blocks = matrix_products(lambda: model.base_model(ids))
    states = torch.randn(ROWS * RESPONSE, 32)
    head = matrix_products(lambda: model.lm_head(states))
    work = ppo_work(model, ROWS * PROMPT, ROWS * RESPONSE, RESPONSE, bytes_each=4)
    assert work.flops == 10 * blocks + 5 * head
    # twice as much backward as forward, as the two models that learn have it
    ids_of_one = ids[:1]
    both = matrix_products(lambda: model.base_model(ids_of_one).last_hidden_state.sum().backward())
    # but for the states of the embeddings, which nothing learns from here
    assert both == pytest.approx(3 * blocks / ROWS, rel=0.1)


def test_each_step_of_decoding_reads_all_weights() -> None:
    model = random_model(1, seed=0, shape=SHAPE)
    matrices = [value for value in model.parameters() if value.ndim > 1]
    work = ppo_work(model, 10, 6, steps=3, bytes_each=4)
    # the tied embeddings are the head
    assert work.traffic == 3 * 4 * sum(value.numel() for value in matrices)
    assert work.seconds(Machine(flops=work.flops, bandwidth=work.traffic)) == pytest.approx(2)


def test_a_model_that_ends_does_so_about_as_often_as_asked() -> None:
    model, prompts = random_model(2, seed=1, shape=SHAPE), random_prompts(12, 4, 9, vocabulary=96)
    let_it_end(model, prompts, probability=0.1, temperature=0.7)
    with torch.no_grad():
        drawn = [
            (model(torch.tensor([ids])).logits[0] / 0.7).softmax(-1)[:, EOS] for ids in prompts
        ]
    assert 0.07 < float(torch.cat(drawn).mean()) < 0.14
