from collections import Counter

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.rollout.prompts import PromptBatch, PromptStream, Share


def make_stream(prompts: int = 7, seed: int = 1) -> PromptStream:
    table = pd.DataFrame(
        {"prompt_ids": [[2, 5 + n] for n in range(prompts)], "kind": ["helpful"] * prompts}
    )
    return PromptStream(table, [f"prompt {n}" for n in range(prompts)], seed)


@pytest.fixture
def stream() -> PromptStream:
    return make_stream()


# -- one response a prompt ----------------------------------------------------------------------


def test_every_prompt_comes_once_an_epoch_in_changing_order(stream: PromptStream) -> None:
    texts = [text for iteration in range(7) for text in stream.take(iteration, 3).texts]
    epochs = [texts[:7], texts[7:14], texts[14:]]
    everything = Counter(f"prompt {n}" for n in range(7))
    assert all(Counter(epoch) == everything for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_seed_decides_the_order() -> None:
    assert make_stream(seed=1).take(0, 7) == make_stream(seed=1).take(0, 7)
    assert make_stream(seed=1).take(0, 7) != make_stream(seed=2).take(0, 7)


def test_any_iteration_can_be_asked_for_alone(stream: PromptStream) -> None:
    alone = make_stream().take(5, 3)
    for iteration in range(5):
        stream.take(iteration, 3)
    assert stream.take(5, 3) == alone


def test_positions_count_on_from_epoch_to_epoch(stream: PromptStream) -> None:
    assert stream.take(0, 4).positions == [0, 1, 2, 3]
    batch = stream.take(2, 4)
    assert batch.positions == [8, 9, 10, 11]
    assert batch.response_numbers == [0] * 4
    for row, ids, text in zip(batch.table_rows, batch.ids, batch.texts, strict=True):
        assert (ids, text) == ([2, 5 + row], f"prompt {row}")


def test_processes_share_an_iteration_without_overlap(stream: PromptStream) -> None:
    all_rows = stream.take(2, 6)
    parts = [stream.take(2, 6, None, Share(rank, 3)) for rank in range(3)]
    assert [row for part in parts for row in part.table_rows] == all_rows.table_rows
    assert [ids for part in parts for ids in part.ids] == all_rows.ids


def test_processes_share_every_mini_batch(stream: PromptStream) -> None:
    """Two mini-batches of four over two processes: each has two rows of either."""
    halves = [stream.take(2, 8, 4, Share(rank, 2)).positions for rank in range(2)]
    assert halves == [[16, 17, 20, 21], [18, 19, 22, 23]]


def test_a_fixed_set_is_the_table_s_beginning(stream: PromptStream) -> None:
    assert stream.first(5).table_rows == list(range(5))
    assert stream.first(5).positions == list(range(5))
    # not more than there are
    assert stream.first(100).table_rows == list(range(7))
    shared = [row for rank in range(3) for row in stream.first(5, Share(rank, 3)).table_rows]
    assert sorted(shared) == list(range(5))


# -- several responses a prompt -----------------------------------------------------------------


def test_rows_of_one_prompt_lie_side_by_side(stream: PromptStream) -> None:
    batch = stream.take(1, 6, responses=3)
    assert batch.positions == [6, 6, 6, 7, 7, 7]
    assert batch.response_numbers == [0, 1, 2, 0, 1, 2]
    prompts = stream.take(3, 2)
    assert batch.table_rows == [row for row in prompts.table_rows for _ in range(3)]
    assert batch.ids == [ids for ids in prompts.ids for _ in range(3)]
    assert batch.texts == [text for text in prompts.texts for _ in range(3)]
    assert len(batch) == 6


@given(iteration=st.integers(0, 9), responses=st.sampled_from([2, 3, 4, 6]))
def test_draws_with_more_responses_name_the_first_of_the_iteration_s_prompts(
    iteration: int, responses: int
) -> None:
    """`count` is of rows: as many of them need fewer prompts."""
    stream = make_stream()
    one, several = (stream.take(iteration, 12, responses=number) for number in (1, responses))
    for each, other in ((one.positions, several.positions), (one.ids, several.ids)):
        assert other[::responses] == each[: 12 // responses]


def rows_of(batch: PromptBatch) -> list[tuple[int, int]]:
    return list(zip(batch.positions, batch.response_numbers, strict=True))


@given(
    responses=st.integers(1, 4),
    processes=st.integers(1, 3),
    per_process=st.integers(1, 3),
    mini_batches=st.integers(1, 3),
    iteration=st.integers(0, 4),
)
def test_mini_batches_and_processes_never_split_a_prompt(
    responses: int, processes: int, per_process: int, mini_batches: int, iteration: int
) -> None:
    """per_process: prompts of a process in each mini-batch."""
    stream = make_stream(5)
    size = responses * per_process * processes
    count = size * mini_batches
    all_rows = rows_of(stream.take(iteration, count, size, responses=responses))
    shares = [
        rows_of(stream.take(iteration, count, size, Share(rank, processes), responses))
        for rank in range(processes)
    ]
    assert sorted(row for share in shares for row in share) == all_rows

    share_size = size // processes
    for number in range(mini_batches):
        expected = all_rows[number * size : (number + 1) * size]
        parts = [share[number * share_size : (number + 1) * share_size] for share in shares]
        # the same mini-batch, however many processes there are
        assert sorted(row for part in parts for row in part) == expected
        for part in parts:
            # every prompt in it with all of its responses
            numbers = [response for _, response in part]
            assert numbers == list(range(responses)) * per_process


@pytest.mark.parametrize(
    ("count", "mini_batch", "processes", "responses"),
    [
        # rows that do not divide into mini-batches
        (10, 4, 1, 1),
        # a mini-batch that does not divide into responses
        (8, 4, 1, 3),
        # nor into processes
        (8, 4, 3, 1),
        # each of them divides, both together do not
        (8, 4, 4, 2),
        # without mini-batches the whole is one
        (6, None, 4, 1),
    ],
)
def test_counts_that_do_not_divide_are_refused(
    stream: PromptStream, count: int, mini_batch: int | None, processes: int, responses: int
) -> None:
    message = f"do not divide into {responses} responses a prompt on {processes} processes"
    with pytest.raises(ValueError, match=message):
        stream.take(0, count, mini_batch, Share(0, processes), responses)
