import copy

import pytest
import torch
from tiny import PAD, tiny_model

from rlhf.batches.padding import TokenBatch, pad
from rlhf.models.backbone import hidden_states
from rlhf.models.trunk import lower_states, shares_trunk, upper_states


@pytest.fixture
def batch() -> TokenBatch:
    sequences = [[2, 9, 30, 12, 1], [2, 11], [2, 5, 6, 7, 8, 40, 41]]
    return pad(sequences, [[True] * len(ids) for ids in sequences], PAD)


@pytest.mark.parametrize("layers", [1, 2])
def test_bottom_and_top_make_the_whole(batch: TokenBatch, layers: int) -> None:
    model = tiny_model(5, spread=0.2)
    with torch.no_grad():
        below = lower_states(model, layers, batch)
        assert torch.equal(upper_states(model, layers, batch, below), hidden_states(model, batch))
        assert model(input_ids=batch.input_ids).logits.shape == (
            3,
            7,
            64,
        )  # the model itself is as it was
        assert len(model.base_model.layers) == 2


def test_gradients_reach_the_top_alone(batch: TokenBatch) -> None:
    model = tiny_model(5, spread=0.2)
    upper_states(model, 1, batch, lower_states(model, 1, batch)).sum().backward()
    reached = {
        name.split(".")[2]
        for name, value in model.named_parameters()
        if value.grad is not None and "layers" in name
    }
    assert reached == {"1"}


def test_a_trunk_is_shared_only_if_equal_to_the_bit() -> None:
    first = tiny_model(5)
    second = copy.deepcopy(first)
    with torch.no_grad():
        second.get_parameter("model.layers.1.mlp.up_proj.weight").add_(1.0)
        second.get_parameter("model.norm.weight").add_(1.0)
    assert shares_trunk([first, second, first], 1)  # what differs is above
    with torch.no_grad():
        second.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] += 1e-6
    assert not shares_trunk([first, second], 1)
    assert shares_trunk([first, second], 2)  # below two layers there are the embeddings alone
