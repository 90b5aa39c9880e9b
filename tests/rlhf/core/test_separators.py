"""Where steps end: by hand, and against a reading of the text alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import EOS, GOOD, tiny_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf.common.errors import ModelError
from rlhf.core.separators import StepFinder, step_ends

END = "<end>"


@pytest.mark.parametrize(
    ("pieces", "ends"),
    [
        (["a", "\n", "b", END], [1, 3]),
        # one token holds the separator and what stands before it
        (["a", ".\n", "b", END], [1, 3]),
        # and one the separator with what stands behind it
        (["a", "\n  b", "c", END], [1, 3]),
        (["a\n", "b\nc\n", "d", END], [0, 1, 3]),
        # an end token behind a separator ends nothing
        (["a", "\n", END], [1]),
        (["a", "\n", " ", "\n", "\n", END], [1]),
        # nor do separators before the first step, or in a row
        (["\n", "\n", "a", "\n\n", "\n", "b", "\n"], [3, 6]),
        ([END], []),
        # cut in the first step
        (["a", "b"], []),
        # cut in the second one
        (["a", "\n", "b"], [1]),
        # cut just behind it
        (["a", "\n", "b", "\n"], [1, 3]),
        ([], []),
    ],
    ids=lambda value: "|".join(map(str, value)).replace("\n", "/") or "none",
)
def test_ends_by_hand(pieces: list[str], ends: list[int]) -> None:
    ended = bool(pieces) and pieces[-1] == END
    assert step_ends(pieces, "\n", ended=ended) == ends


def test_a_separator_may_be_spelt_by_several_tokens() -> None:
    pieces = ["a", "\n", "\n", "b\n", "c", "\n", "\nd"]
    assert step_ends(pieces, "\n\n", ended=False) == [2, 6]


@given(st.lists(st.sampled_from(["a", "b\n", "\n", " ", "\nc", "d\ne", "\n\n"])), st.booleans())
def test_there_are_as_many_ends_as_steps_with_more_than_blanks(
    pieces: list[str], ended: bool
) -> None:
    whole = [*pieces, END] if ended else pieces
    *closed, last = "".join(pieces).split("\n")
    steps = [*closed, last] if ended else closed
    ends = step_ends(whole, "\n", ended=ended)
    # one token may hold two steps, whose ends are then one
    assert len(ends) <= sum(bool(step.strip()) for step in steps)
    assert ends == sorted(set(ends)) and all(0 <= end < len(whole) for end in ends)
    text_before = ["".join(whole[: end + 1]) for end in ends]
    assert all("\n" in text or text.endswith(END) for text in text_before)
    single = [piece for piece in pieces if piece not in ("b\n", "\nc", "d\ne", "\n\n")]
    alone = step_ends([*single, END] if ended else single, "\n", ended=ended)
    *closed, last = "".join(single).split("\n")
    steps = [*closed, last] if ended else closed
    assert len(alone) == sum(bool(step.strip()) for step in steps)


def test_the_pieces_of_a_tokenizer_and_its_end_token() -> None:
    finder = StepFinder(tiny_tokenizer(), "w1")
    # w10, w15 and w19 contain it
    assert finder.ends([GOOD, 10, 20, 15, 30, EOS]) == [1, 3, 5]
    assert finder.ends([GOOD, 10, 20, 30]) == [1]
    assert finder.ends([GOOD, 19, EOS]) == [1, 2]
    assert finder.ends([EOS]) == finder.ends([]) == []
    # another token that ends responses, as Gemma's and Llama 3's have
    other = StepFinder(tiny_tokenizer(), "w1", [40])
    assert other.ends([GOOD, 10, 20, 40]) == other.ends([GOOD, 10, 20, EOS]) == [1, 3]
    assert finder.ends([GOOD, 10, 20, 40]) == [1]


def test_a_separator_that_the_tokenizer_throws_away_is_refused() -> None:
    with pytest.raises(ModelError, match=r"data\.step_separator '\\n': .*no tokens that spell it"):
        StepFinder(tiny_tokenizer(), "\n")


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token: no token of a Cyrillic letter is text."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="!")


def test_a_separator_whose_tokens_are_no_text_is_refused() -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer.encode("one\ntwo")
    assert StepFinder(tokenizer, "\n").ends(ids) == [3]
    with pytest.raises(ModelError, match="'ки'"):
        StepFinder(tokenizer, "ки")
