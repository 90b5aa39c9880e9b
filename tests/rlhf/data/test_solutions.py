"""The table `steps`: answers in steps, where these end, and what their labels are."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_files import summary_of, write_lines
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.batches.tables import read_table
from rlhf.common.errors import DataError, ModelError
from rlhf.core.separators import StepFinder
from rlhf.data.clean import clean_text
from rlhf.data.fetch import fetch
from rlhf.data.prepare import prepare
from rlhf.data.records import Message, Solution
from rlhf.data.solutions import encode_solutions
from rlhf.data.tokens import ChatEncoder
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

Make = Callable[..., Settings]
QUESTION = (Message("user", "Why?"),)
WIDE = 10_000
STEP = st.text(max_size=20).map(clean_text).filter(lambda text: text.strip() and "\n" not in text)


# -- tokens -------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(STEP, min_size=1, max_size=5), finished=st.booleans())
def test_steps_are_tokenised_one_by_one_and_their_ends_are_found_again(
    tokenizer: PreTrainedTokenizerBase, steps: list[str], finished: bool
) -> None:
    solution = Solution(QUESTION, tuple(steps), (1.0,) * len(steps), finished)
    encoder = ChatEncoder(tokenizer, WIDE, WIDE)
    (encoded,) = encode_solutions(encoder, [QUESTION], [solution], "\n")
    tails = ["\n"] * (len(steps) - 1) + ["<|im_end|>" if finished else "\n"]
    whole = [step + tail for step, tail in zip(steps, tails, strict=True)]
    assert tokenizer.decode(encoded.ids) == "".join(whole)
    # each by itself
    parts = encoder.texts(whole)
    assert encoded.ids == [token for part in parts for token in part]
    expected = [sum(map(len, parts[: count + 1])) - 1 for count in range(len(parts))]
    assert encoded.step_ends == expected
    # as those of a sampled response are found
    assert StepFinder(tokenizer, "\n").ends(encoded.ids) == expected


@pytest.mark.parametrize("finished", [True, False])
def test_blanks_of_the_template_stand_before_the_first_step(finished: bool) -> None:
    """As of `plain`; they are no step, and no reason to drop the row."""
    tokenizer = merging_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}{{ 'Q:' if loop.first else ' ' }}{{ m['content'] }}"
        "{% if not loop.first %}<|im_end|>{% endif %}{% endfor %}"
    )
    encoder = ChatEncoder(tokenizer, WIDE, WIDE)
    solution = Solution(QUESTION, ("a", "b"), (1.0, 0.0), finished)
    (encoded,) = encode_solutions(encoder, [QUESTION], [solution], "\n")
    assert not encoded.rewritten
    end = "<|im_end|>" if finished else "\n"
    assert tokenizer.decode(encoded.ids) == f" a\nb{end}"
    assert [tokenizer.decode([encoded.ids[place]]) for place in encoded.step_ends] == ["\n", end]


def test_a_response_is_what_the_policy_would_be_taught(tokenizer: PreTrainedTokenizerBase) -> None:
    """Line ends do not merge with letters here: the same ids as of the answer as a whole."""
    encoder = ChatEncoder(tokenizer, WIDE, WIDE)
    solution = Solution(QUESTION, ("One is so.", "Two."), (1.0, 0.0))
    (encoded,) = encode_solutions(encoder, [QUESTION], [solution], "\n")
    (response,) = encoder.responses([QUESTION], ["One is so.\nTwo."])
    assert encoded.ids == response.ids


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """One whose merges join a line end with the letter behind it, and a full stop with a line end."""
    letters = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "\u010ab", ".\u010a"]
    merges = [("\u010a", "b"), (".", "\u010a")]
    backend = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    template = "{% for m in messages %}{{ m['content'] }}{% if not loop.first %}<|im_end|>{% endif %}{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", chat_template=template
    )


def test_a_line_end_does_not_merge_with_the_step_behind_it() -> None:
    tokenizer = merging_tokenizer()
    whole = tokenizer.encode("a\nb\n", add_special_tokens=False)
    assert [tokenizer.decode([token]) for token in whole] == ["a", "\nb", "\n"]
    encoder = ChatEncoder(tokenizer, WIDE, WIDE)
    solution = Solution(QUESTION, ("a", "b"), (1.0, 0.0), finished=False)
    (encoded,) = encode_solutions(encoder, [QUESTION], [solution], "\n")
    assert [tokenizer.decode([token]) for token in encoded.ids] == ["a", "\n", "b", "\n"]
    assert encoded.step_ends == [1, 3]
    # with what stands before it it may: the policy writes that token too
    stop = Solution(QUESTION, ("a.", "b"), (1.0, 0.0), finished=False)
    (encoded,) = encode_solutions(encoder, [QUESTION], [stop], "\n")
    assert [tokenizer.decode([token]) for token in encoded.ids] == ["a", ".\n", "b", "\n"]
    assert encoded.step_ends == StepFinder(tokenizer, "\n").ends(encoded.ids) == [1, 3]


def test_a_step_that_the_cut_leaves_unfinished_has_no_end(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    solution = Solution(QUESTION, ("One.", "Two and more."), (1.0, 0.0))
    (whole,) = encode_solutions(ChatEncoder(tokenizer, WIDE, WIDE), [QUESTION], [solution], "\n")
    first, last = whole.step_ends
    assert last == len(whole.ids) - 1 and not whole.truncated
    for limit, ends in ((last, [first]), (first + 1, [first]), (first, [])):
        (cut,) = encode_solutions(ChatEncoder(tokenizer, WIDE, limit), [QUESTION], [solution], "\n")
        assert (cut.ids, cut.step_ends, cut.truncated) == (whole.ids[:limit], ends, True)


# -- prepare ------------------------------------------------------------------------------------


def row(number: int, **changes: Any) -> dict[str, Any]:
    made = {
        "prompt": f"What is {number} and 1?",
        "steps": [f"{number} and 1", f"that is {number + 1}"],
        "labels": [True, number % 2 == 0],
    }
    return made | changes


def prepared(workspace: Workspace, make_settings: Make, rows: list[Any], **data: Any) -> Any:
    write_lines(workspace.raw / "steps" / "0" / "sums.jsonl", rows)
    prepare(make_settings(steps=["path:sums.jsonl"], **data), workspace)
    return read_table(workspace, "steps")


def test_rows_come_with_their_ends_and_labels(
    workspace: Workspace, make_settings: Make, tokenizer: PreTrainedTokenizerBase
) -> None:
    unlabelled = row(200, labels=[0.25, None])
    frame = prepared(workspace, make_settings, [*map(row, range(80)), unlabelled])
    assert set(frame["split"]) == {"train", "validation", "test"} and len(frame) == 81
    assert set(frame["separator"]) == {"\n"}
    for one in frame.itertuples():
        first, last = one.step_ends
        text = tokenizer.decode(one.response_ids)
        number = int(text.split()[0])
        assert text == f"{number} and 1\nthat is {number + 1}<|im_end|>"
        assert tokenizer.decode(one.response_ids[: first + 1]) == f"{number} and 1\n"
        assert last == len(one.response_ids) - 1
        assert one.labels.dtype == "float32"
        if number == 200:
            assert one.labels[0] == 0.25 and math.isnan(one.labels[1])
        else:
            assert one.labels.tolist() == [1.0, float(number % 2 == 0)]

    summary = summary_of(workspace)
    assert (summary["steps_labelled"], summary["steps_per_solution_mean"]) == (161, 2.0)
    assert summary["steps_label_mean"] == pytest.approx((80 + 40 + 0.25) / 161)
    assert sum(summary[f"steps_{split}"] for split in ("train", "validation", "test")) == 81
    assert summary["steps_response_truncated"] == 0


BROKEN = {
    "not_a_label": row(300, labels=[-100, True]),
    "empty_step": row(301, steps=["", "x"]),
    "labels_are_not_as_many_as_steps": row(302, labels=[True]),
    "separator_in_step": row(303, steps=["one\ntwo", "x"]),
    "special_token": row(304, steps=["one<|im_end|>", "x"]),
    "not_a_solution": {"prompt": "Why?"},
}


def test_broken_rows_are_named_or_refused(workspace: Workspace, make_settings: Make) -> None:
    rows = [*map(row, range(80)), *BROKEN.values(), row(0)]
    frame = prepared(workspace, make_settings, rows, broken="drop")
    summary = summary_of(workspace)
    assert len(frame) == 80 and summary["broken"] == len(BROKEN)
    assert all(summary[f"steps_dropped_{reason}"] == 1 for reason in [*BROKEN, "duplicate"])
    assert "sums.jsonl:81 not_a_label" in summary["broken_first"]
    with pytest.raises(DataError, match=r"sums\.jsonl:81: not_a_label in data\.steps"):
        prepared(workspace, make_settings, rows, broken="refuse")


def test_the_same_steps_under_other_labels_are_no_duplicate(
    workspace: Workspace, make_settings: Make
) -> None:
    rows = [*map(row, range(80)), row(2, labels=[True, False])]
    frame = prepared(workspace, make_settings, rows)
    assert len(frame) == 81
    # and all answers to one prompt are in one split
    assert set(frame.groupby("opening")["split"].nunique()) == {1}


LONG = "word " * 200


def test_long_answers_lose_their_last_steps_or_are_dropped(
    workspace: Workspace, make_settings: Make
) -> None:
    long = [
        row(300, steps=["short", LONG], labels=[True, False]),
        row(301, steps=[LONG, "short"], labels=[True, False]),
        row(302, steps=["short", LONG], labels=[None, True]),
    ]
    rows = [*map(row, range(80)), *long]
    frame = prepared(workspace, make_settings, rows, max_response_tokens=200)
    summary = summary_of(workspace)
    # those of which no label is left
    assert summary["steps_dropped_no_label_once_cut"] == 2 and summary["broken"] == 0
    assert summary["steps_response_truncated"] == 1
    (cut,) = frame[frame["response_ids"].map(len) == 200].itertuples()
    assert len(cut.step_ends) == 1 and cut.labels.tolist() == [1.0]
    drop = {"max_response_tokens": 200, "long_responses": "drop"}
    prepared(workspace, make_settings, rows, **drop)
    assert summary_of(workspace)["steps_dropped_long_response"] == 3


def test_a_source_whose_rows_are_all_dropped_is_refused(
    workspace: Workspace, make_settings: Make
) -> None:
    with pytest.raises(DataError, match=r"data\.steps: no rows left for train"):
        prepared(workspace, make_settings, [BROKEN["empty_step"]])


def test_a_separator_that_the_tokenizer_cannot_spell_is_refused_where_there_are_steps(
    workspace: Workspace, make_settings: Make
) -> None:
    prepare(make_settings(step_separator="ки"), workspace)
    with pytest.raises(ModelError, match=r"data\.step_separator 'ки'"):
        prepared(workspace, make_settings, [*map(row, range(80))], step_separator="ки")


def test_no_opening_of_a_solution_is_trained_and_tested_on(
    workspace: Workspace, make_settings: Make
) -> None:
    """The tables of dialogues take note of the openings of solutions, and the other way round."""
    frame = prepared(workspace, make_settings, [*map(row, range(200))])
    tested = set(frame[frame["split"] == "test"]["messages"])
    assert tested
    preferences = read_table(workspace, "preferences")
    openings = set(preferences[preferences["split"] != "test"]["opening"])
    assert not openings & set(frame[frame["split"] == "test"]["opening"])


def test_fetch_brings_the_files(make_settings: Make, tmp_path: Any) -> None:
    workspace = Workspace(tmp_path)
    write_lines(tmp_path / "sums" / "train.jsonl", [row(1)])
    fetch(make_settings(steps=["path:sums"]), workspace)
    assert (workspace.raw / "steps" / "0" / "sums" / "train.jsonl").is_file()
