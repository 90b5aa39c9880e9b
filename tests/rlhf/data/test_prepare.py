import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from raw_files import pair_row, replace_raw, summary_of, transcript, transcript_pair_row
from transformers import PreTrainedTokenizerBase

from rlhf.batches.tables import COLUMNS, read_table
from rlhf.common.errors import DataError, ModelError, SettingsError
from rlhf.data.figures import longer_wins_accuracy
from rlhf.data.prepare import prepare
from rlhf.data.tables import SPLITS
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

Make = Callable[..., Settings]


def test_starter_tables_are_what_the_training_code_was_promised(
    workspace: Workspace, make_settings: Make, tokenizer: PreTrainedTokenizerBase
) -> None:
    settings = make_settings(max_prompt_tokens=300, max_response_tokens=300, pretrain_tokens=64)
    prepare(settings, workspace)
    tables = {name: read_table(workspace, name) for name in SPLITS}
    # no source is named for it
    steps = tables.pop("steps")
    assert steps.empty and list(steps.columns) == list(COLUMNS["steps"])
    assert not [key for key in summary_of(workspace) if key.startswith("steps_")]
    for name, frame in tables.items():
        assert list(frame.columns) == list(COLUMNS[name])
        assert frame["id"].is_unique and set(frame["split"]) == set(SPLITS[name])
        counts = Counter(frame["split"])
        assert all(
            summary_of(workspace)[f"{name}_{split}"] == counts[split] for split in SPLITS[name]
        )
    assert (
        len(tables["sft"]) == len(tables["preferences"]) == 860
        and summary_of(workspace)["dropped"] == 0
    )
    assert (
        summary_of(workspace)["preferences_prompt_shortened"]
        == summary_of(workspace)["preferences_rejected_truncated"]
        == 0
    )

    def whole(messages: list[dict[str, str]]) -> list[int]:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        return tokenizer(text.removesuffix("\n"), add_special_tokens=False)["input_ids"]

    for row in tables["preferences"].head(40).itertuples():
        before = json.loads(row.messages)
        for answer, ids in ((row.chosen, row.chosen_ids), (row.rejected, row.rejected_ids)):
            assert [*row.prompt_ids, *ids] == whole(
                [*before, {"role": "assistant", "content": answer}]
            )
            assert ids[-1] == tokenizer.eos_token_id
    for row in tables["sft"].head(40).itertuples():
        messages = json.loads(row.messages)
        assert list(row.input_ids) == whole(messages)
        learned = [token for token, mask in zip(row.input_ids, row.loss_mask, strict=True) if mask]
        assert tokenizer.decode(learned) == "".join(
            m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant"
        )
    for row in tables["prompts"].head(40).itertuples():
        ids = tokenizer.apply_chat_template(json.loads(row.messages), add_generation_prompt=True)[
            "input_ids"
        ]
        assert list(row.prompt_ids) == ids
    assert {len(ids) for ids in tables["pretrain"]["input_ids"]} == {64}


def test_prompts_that_open_alike_once_they_are_shortened_are_not_on_both_sides(
    workspace: Workspace, make_settings: Make
) -> None:
    """All rows end with one of the same three questions; what came before is gone from some of them."""
    long = "word " * 200

    def row(opening: str, question: str) -> dict[str, str]:
        return {
            "chosen": transcript(opening, long, question, "yes"),
            "rejected": transcript(opening, long, question, "no"),
        }

    train = [row(f"Opening {i}", f"Why {i % 3}?") for i in range(30)]
    train += [
        row("Test 0", "New?"),
        *(
            {"chosen": transcript(f"Alone {i}", "y"), "rejected": transcript(f"Alone {i}", "n")}
            for i in range(60)
        ),
    ]
    test = [row(f"Test {i}", "Why 0?") for i in range(3)] + [row("Test 3", "Why 1?")]
    replace_raw(workspace, "preferences", harmless_base__train=train, harmless_base__test=test)
    prepare(make_settings(max_prompt_tokens=64), workspace)
    frame = read_table(workspace, "preferences")
    openings = frame["messages"].map(lambda text: json.loads(text)[0]["content"])
    tested = frame["split"] == "test"
    assert set(openings[tested]) == {"Why 0?", "Why 1?"} and sum(tested) == 4
    assert {text for text in openings[~tested] if text.startswith("Why")} == {"Why 2?"}
    splits = frame.groupby("opening")["split"].nunique()
    assert set(frame["split"]) == set(SPLITS["preferences"]) and set(splits) == {1}
    assert summary_of(workspace)["preferences_dropped_opening_in_test"] == 1
    # ten rows of three splits are now the same: those of the first of these are left
    alike = sum(openings == "Why 2?")
    assert (
        summary_of(workspace)["preferences_dropped_opening_in_other_split"] == 20 + 10 - alike > 20
    )
    assert all(frame["unseen_opening"][tested])


def test_no_opening_is_on_both_sides(workspace: Workspace, make_settings: Make) -> None:
    """The same openings under other answers in every use, two published sources among them."""
    rows = [pair_row(f"Question {i}", f"yes {i}") for i in range(200)]
    train, test = (
        [transcript_pair_row(f"question {i}!", f"c {i}") for i in part]
        for part in (range(100, 300), range(90, 130))
    )
    replace_raw(workspace, "sft", rows=rows)
    replace_raw(workspace, "preferences", harmless_base__train=train, harmless_base__test=test)
    replace_raw(workspace, "prompts", rows=rows, helpful_base__train=train)
    replace_raw(workspace, "evaluation", rows=rows[:15])
    prepare(make_settings(), workspace)
    frames = {name: read_table(workspace, name) for name in ("sft", "preferences", "prompts")}
    splits: dict[str, set[str]] = {}
    for frame in frames.values():
        for opening, split in zip(frame["opening"], frame["split"], strict=True):
            splits.setdefault(opening, set()).add("train" if split == "gold" else split)
    assert {len(found) for found in splits.values()} == {1}
    gold = set(frames["preferences"].query("split == 'gold'")["opening"])
    assert gold and not gold & set(frames["preferences"].query("split == 'train'")["opening"])

    preferences = frames["preferences"]
    assert set(preferences["kind"]) == {"harmless"}
    # all that was published as test, and nothing else
    assert sum(preferences["split"] == "test") == 40
    # Rows 100-129 of the train file open as test rows do; of the others, those whose opening is tested on in sft.
    tested = [
        int(source.split(":")[1]) - 1 for source in frames["sft"].query("split == 'test'")["source"]
    ]
    assert summary_of(workspace)["preferences_dropped_opening_in_test"] == 30 + sum(
        number >= 130 for number in tested
    )
    trained = {opening for opening, split in splits.items() if split == {"train"}}
    assert list(preferences["unseen_opening"]) == [
        opening not in trained for opening in preferences["opening"]
    ]
    assert preferences.query("split == 'test'")["unseen_opening"].all()
    assert not preferences.query("split == 'train'")["unseen_opening"].any()


def test_two_runs_are_the_same_and_the_seed_matters(
    workspace: Workspace, make_settings: Make
) -> None:
    settings = make_settings(limits={"sft.train": 30})
    prepare(settings, workspace)
    first = {name: read_table(workspace, name) for name in SPLITS}
    prepare(settings, workspace)
    for name, frame in first.items():
        pd.testing.assert_frame_equal(frame, read_table(workspace, name))
    prepare(settings.model_copy(update={"seed": 2}), workspace)
    assert set(first["sft"]["id"]) != set(read_table(workspace, "sft")["id"])


def test_texts_are_joined_to_windows(
    workspace: Workspace, make_settings: Make, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = [{"text": f"Text {i} goes on and on."} for i in range(40)]
    replace_raw(workspace, "pretrain", texts=texts)
    prepare(make_settings(pretrain_tokens=32), workspace)
    frame = read_table(workspace, "pretrain")
    assert {len(ids) for ids in frame["input_ids"]} == {32}
    assert set(frame["split"]) == {"train", "validation"}
    train = frame[frame["split"] == "train"]
    joined = tokenizer.decode([token for ids in train["input_ids"] for token in ids])
    assert "".join(train["text"]) == joined and joined.count("\n\n") >= 28


def test_one_long_text_is_validated_on_at_its_end(
    workspace: Workspace, make_settings: Make
) -> None:
    book = "".join(f"In the year {year} the harbour had one lamp. " for year in range(60))
    replace_raw(workspace, "pretrain", book=[{"text": book}])
    prepare(make_settings(pretrain_tokens=2048), workspace)
    frame = read_table(workspace, "pretrain")
    train, validation = (
        "".join(frame[frame["split"] == split]["text"]).removesuffix("\n\n")
        for split in ("train", "validation")
    )
    assert train + validation == book and 0.05 < len(validation) / len(book) < 0.2
    assert summary_of(workspace)["pretrain_text_cut_to_hold_out"] == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"limits": {"sft.dev": 3}}, r"data\.limits\.sft\.dev: unknown"),
        ({"test_fraction": 0, "max_prompt_tokens": 3}, r"data\.sft: no rows left for train"),
        ({"validation_fraction": 0}, r"data\.sft: no rows left for validation; .*validation_frac"),
        ({"columns": {"prmpt": "frage"}}, r"data\.columns\.prmpt: unknown; .* to one of chosen, "),
        (
            {"columns": {"prompt": "frage"}},
            r"data\.columns\.prompt: no row has a column 'frage'; not read are .*fault",
        ),
    ],
)
def test_settings_that_leave_nothing_are_refused(
    workspace: Workspace, make_settings: Make, data: dict[str, Any], message: str
) -> None:
    with pytest.raises((SettingsError, DataError), match=message):
        prepare(make_settings(**data), workspace)


def test_missing_inputs_name_the_stage_to_run(
    workspace: Workspace, make_settings: Make, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"raw/sft/1: no raw data; run the stage fetch"):
        prepare(make_settings(sft=["starter", "starter"]), workspace)
    with pytest.raises(ModelError, match="no base model; run the stage fetch"):
        prepare(make_settings(), Workspace(tmp_path / "elsewhere"))


def test_longer_wins_accuracy_by_hand() -> None:
    pairs = [("long", "s"), ("s", "long"), ("ab", "cd"), ("xyz", "")]
    rows = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]
    assert longer_wins_accuracy(rows) == (1 + 0 + 0.5 + 1) / 4
    assert longer_wins_accuracy([]) is None
