import math

import torch

from rlhf.batches.solutions import pad_solutions


def test_ends_and_labels_stand_where_the_steps_are() -> None:
    batch = pad_solutions(
        prompts=[[2, 7], [2]],
        responses=[[8, 9, 1], [8, 9, 10, 11]],
        step_ends=[[0, 2], [1]],
        labels=[[1.0, math.nan], [0.25]],
        pad_id=0,
    )
    assert batch.tokens.input_ids.tolist() == [[2, 7, 8, 9, 1], [2, 8, 9, 10, 11]]
    assert batch.tokens.target_mask.tolist() == [
        [False, False, True, True, True],
        [False, True, True, True, True],
    ]
    assert batch.ends.tolist() == [
        [False, False, True, False, True],
        [False, False, True, False, False],
    ]
    # row by row, as what a model says at the ends is read
    assert batch.tokens.input_ids[batch.ends].tolist() == [8, 1, 9]
    torch.testing.assert_close(batch.labels, torch.tensor([1.0, math.nan, 0.25]), equal_nan=True)
    assert batch.to("cpu").labels.dtype == torch.float32
