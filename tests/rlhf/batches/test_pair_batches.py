import torch

from rlhf.batches.pairs import pad_pairs

X = True
_ = False


def test_rows_by_hand() -> None:
    batch = pad_pairs([[5, 6], [7]], [[1], [2, 3]], [[8, 9], [4]], pad_id=0)
    assert batch.tokens.input_ids.tolist() == [[5, 6, 1, 8, 9], [7, 2, 3, 4, 0]]
    assert batch.tokens.attention_mask.tolist() == [[X, X, X, X, X], [X, X, X, X, _]]
    assert batch.tokens.target_mask.tolist() == [[_, _, X, _, _], [_, X, X, _, _]]
    assert batch.position_ids.tolist() == [[0, 1, 2, 2, 3], [0, 1, 2, 1, 0]]
    assert batch.last.tolist() == [[2, 4], [2, 3]]


def test_the_rejected_answer_sees_the_prompt_and_itself_alone() -> None:
    batch = pad_pairs([[5, 6], [7]], [[1], [2, 3]], [[8, 9], [4]], pad_id=0)
    assert batch.visible.shape == (2, 1, 5, 5)
    assert batch.visible[0, 0].tolist() == [
        [X, _, _, _, _],
        [X, X, _, _, _],
        [X, X, X, _, _],
        [X, X, _, X, _],
        [X, X, _, X, X],
    ]


def test_padding_sees_something_and_nobody_sees_it() -> None:
    """Without anything to see its softmax would not be finite."""
    batch = pad_pairs([[5, 6], [7]], [[1], [2, 3]], [[8, 9], [4]], pad_id=0)
    assert batch.visible[1, 0, 4].tolist() == [X, _, _, _, X]
    assert not bool(torch.any(batch.visible[1, 0, :4, 4]))
