from dataclasses import replace

import pytest
import torch

from rlhf.batches.padding import Packing, TokenBatch, pad, pad_responses, pad_width


def test_pad_by_hand() -> None:
    batch = pad([[5, 6, 7], [8]], [[True, False, True], [True]], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.attention_mask.tolist() == [[True] * 3, [True, False, False]]
    # nothing predicts the first token
    assert batch.target_mask.tolist() == [[False, False, True], [False] * 3]
    assert batch.last_positions.tolist() == [2, 0]


def test_an_end_of_turn_that_equals_the_pad_stays_a_token() -> None:
    batch = pad_responses([[5]], [[6, 0]], pad_id=0)
    assert batch.attention_mask.tolist() == [[True, True, True]]
    assert batch.target_mask.tolist() == [[False, True, True]]


@pytest.fixture
def batch() -> TokenBatch:
    return pad_responses([[5, 6], [7], [8]], [[1, 2, 3], [4], [9, 9]], pad_id=0)


def test_a_response_s_tokens_are_the_targets(batch: TokenBatch) -> None:
    assert batch.input_ids.tolist() == [[5, 6, 1, 2, 3], [7, 4, 0, 0, 0], [8, 9, 9, 0, 0]]
    targets = batch.input_ids[batch.target_mask]
    assert targets.tolist() == [1, 2, 3, 4, 9, 9]
    assert (len(batch), batch.width) == (3, 5)


def test_a_selection_cuts_off_the_padding_that_nobody_needs(batch: TokenBatch) -> None:
    for rows in (slice(1, 3), torch.tensor([1, 2])):
        part = batch.select(rows)
        assert part.input_ids.tolist() == [[7, 4, 0], [8, 9, 9]]
        assert part.attention_mask.tolist() == [[True, True, False], [True] * 3]
        assert part.target_mask.tolist() == [[False, True, False], [False, True, True]]
        assert part.trunk_states is None
    everything = batch.select(slice(None))
    assert torch.equal(everything.input_ids, batch.input_ids)


def test_a_selection_by_index_may_change_the_order(batch: TokenBatch) -> None:
    part = batch.select(torch.tensor([2, 0]))
    assert part.input_ids.tolist() == [[8, 9, 9, 0, 0], [5, 6, 1, 2, 3]]


def test_states_of_a_trunk_go_with_their_rows(batch: TokenBatch) -> None:
    states = torch.arange(30.0).reshape(3, 5, 2)
    on_trunk = replace(batch, trunk_states=states, trunk_blocks=7)
    for rows in (slice(1, 3), torch.tensor([1, 2])):
        part = on_trunk.select(rows)
        assert part.trunk_states is not None
        assert torch.equal(part.trunk_states, states[1:, :3])
        # one memory layout, whatever was cut off
        assert part.trunk_states.is_contiguous()
        assert part.trunk_blocks == 7


def test_micro_batches_keep_the_order(batch: TokenBatch) -> None:
    first, second = batch.micro_batches(2)
    assert first.input_ids.tolist() == [[5, 6, 1, 2, 3], [7, 4, 0, 0, 0]]
    assert second.input_ids.tolist() == [[8, 9, 9]]
    (everything,) = batch.micro_batches(9)
    assert torch.equal(everything.input_ids, batch.input_ids)


def test_moving_takes_everything_along(batch: TokenBatch) -> None:
    states = torch.zeros(3, 5, 2)
    moved = replace(batch, trunk_states=states, trunk_blocks=7).to("meta")
    tensors = (moved.input_ids, moved.attention_mask, moved.target_mask, moved.trunk_states)
    for tensor in tensors:
        assert tensor is not None and tensor.device.type == "meta"
    assert moved.trunk_blocks == 7


def test_states_are_widened_on_the_right() -> None:
    values = torch.ones(2, 3, 4)
    wide = pad_width(values, 5)
    assert wide.shape == (2, 5, 4)
    assert torch.equal(wide[:, :3], values) and not wide[:, 3:].any()


def test_packing_by_hand(batch: TokenBatch) -> None:
    packing = Packing.of(batch.attention_mask)
    packed = packing.packed(batch.input_ids)
    assert packed.tolist() == [[5, 6, 1, 2, 3, 7, 4, 8, 9, 9]]
    # whatever stood on padding, 0 comes back
    assert packing.padded(packed).tolist() == batch.input_ids.tolist()
    states = torch.arange(30.0).view(3, 5, 2)
    back = packing.padded(packing.packed(states))
    assert back.tolist() == (states * batch.attention_mask[:, :, None]).tolist()
