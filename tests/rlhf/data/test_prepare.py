import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from raw_files import transcript, write_lines
from transformers import PreTrainedTokenizerBase

from rlhf.batches.tables import COLUMNS, read_table
from rlhf.common.errors import DataError, ModelError, SettingsError
from rlhf.common.files import read_json
from rlhf.data import encode
from rlhf.data.prepare import longer_wins_accuracy, prepare
from rlhf.data.sources.starter import FILES, starter_file
from rlhf.data.tables import SPLITS
from rlhf.data.uses import USES
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

Make = Callable[..., Settings]


@pytest.fixture
def workspace(tmp_path: Path, base_model: Path) -> Workspace:
    """A workspace after `fetch` of the starter data."""
    made = Workspace(tmp_path)
    made.model("base").parent.mkdir(parents=True)
    made.model("base").symlink_to(base_model)
    for use in USES:
        target = made.raw / use / "0" / FILES[use]
        target.parent.mkdir(parents=True)
        target.write_bytes(starter_file(FILES[use]).read_bytes())
    return made


def replace_raw(workspace: Workspace, use: str, **files: list[Any]) -> None:
    """Put other files in place of a use's own; names are written with __ for / and _ for -."""
    for path in (workspace.raw / use / "0").rglob("*.jsonl*"):
        path.unlink()
    for name, rows in files.items():
        write_lines(
            workspace.raw / use / "0" / (name.replace("__", "/").replace("_", "-") + ".jsonl.gz"),
            rows,
        )


def asked(question: str, chosen: str, rejected: str = "no") -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": question}],
        "chosen": chosen,
        "rejected": rejected,
    }


def talked(opening: str, chosen: str) -> dict[str, Any]:
    return {
        "chosen": transcript(opening, "a", "b", chosen),
        "rejected": transcript(opening, "a", "b", "no"),
    }


def metrics(workspace: Workspace) -> dict[str, Any]:
    return read_json(workspace.metrics("prepare"))


def test_starter_tables_are_what_the_training_code_was_promised(
    workspace: Workspace, make_settings: Make, tokenizer: PreTrainedTokenizerBase
) -> None:
    settings = make_settings(max_prompt_tokens=300, max_response_tokens=300, pretrain_tokens=64)
    prepare(settings, workspace)
    tables = {name: read_table(workspace, name) for name in SPLITS}
    for name, frame in tables.items():
        assert list(frame.columns) == list(COLUMNS[name])
        assert frame["id"].is_unique and set(frame["split"]) == set(SPLITS[name])
        counts = Counter(frame["split"])
        assert all(metrics(workspace)[f"{name}_{split}"] == counts[split] for split in SPLITS[name])
    assert (
        len(tables["sft"]) == len(tables["preferences"]) == 860
        and metrics(workspace)["dropped"] == 0
    )
    assert (
        metrics(workspace)["preferences_prompt_shortened"]
        == metrics(workspace)["preferences_rejected_truncated"]
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
    said = frame["messages"].map(lambda text: json.loads(text)[0]["content"])
    tested = frame["split"] == "test"
    assert set(said[tested]) == {"Why 0?", "Why 1?"} and sum(tested) == 4
    assert {text for text in said[~tested] if text.startswith("Why")} == {"Why 2?"}
    splits = frame.groupby("opening")["split"].nunique()
    assert set(frame["split"]) == set(SPLITS["preferences"]) and set(splits) == {1}
    assert metrics(workspace)["preferences_dropped_opening_in_test"] == 1
    alike = sum(
        said == "Why 2?"
    )  # ten rows of three splits are now the same: those of the first of these are left
    assert metrics(workspace)["preferences_dropped_opening_in_other_split"] == 20 + 10 - alike > 20
    assert all(frame["unseen_opening"][tested])


def test_files_of_one_name_from_two_addresses_are_told_apart(
    workspace: Workspace, make_settings: Make
) -> None:
    replace_raw(workspace, "sft", train=[asked(f"Question {i}", "yes") for i in range(60)])
    write_lines(workspace.raw / "sft" / "1" / "train.jsonl", [asked("Another", "yes"), "{"])
    prepare(make_settings(sft=["starter", "path:more"], broken="drop"), workspace)
    told = metrics(workspace)
    assert (
        told["sft/1/train.jsonl/not_json"] == 1
        and "1/train.jsonl:2 not_json" in told["broken_first"]
    )
    assert (
        sum(value for key, value in told.items() if key.startswith("sft/0/train.jsonl.gz/")) == 60
    )
    sources = read_table(workspace, "sft")["source"]
    assert sum(sources.str.startswith("1/train.jsonl:")) == 1


def test_half_a_character_is_a_broken_row(workspace: Workspace, make_settings: Make) -> None:
    whole = json.dumps(
        {
            "messages": [
                {"role": "user", "content": "hi \U0001f600"},
                {"role": "assistant", "content": "y"},
            ]
        }
    )
    half = whole.replace("\\ude00", "")
    assert "\\ud83d" in half and half != whole
    replace_raw(
        workspace, "sft", train=[*(asked(f"Question {i}", "yes") for i in range(60)), whole, half]
    )
    with pytest.raises(DataError, match=r"train\.jsonl\.gz:62: half_a_character in data\.sft"):
        prepare(make_settings(broken="refuse"), workspace)
    prepare(make_settings(broken="drop"), workspace)
    assert metrics(workspace)["sft_dropped_half_a_character"] == metrics(workspace)["broken"] == 1


def test_no_opening_is_on_both_sides(workspace: Workspace, make_settings: Make) -> None:
    """The same openings under other answers in every use, two published sources among them."""
    rows = [asked(f"Question {i}", f"yes {i}") for i in range(200)]
    train, test = (
        [talked(f"question {i}!", f"c {i}") for i in part]
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
    assert (
        sum(preferences["split"] == "test") == 40
    )  # all that was published as test, and nothing else
    # Rows 100-129 of the train file open as test rows do; of the others, those whose opening is tested on in sft.
    tested = [
        int(where.split(":")[1]) - 1 for where in frames["sft"].query("split == 'test'")["source"]
    ]
    assert metrics(workspace)["preferences_dropped_opening_in_test"] == 30 + sum(
        number >= 130 for number in tested
    )
    trained = {opening for opening, split in splits.items() if split == {"train"}}
    assert list(preferences["unseen_opening"]) == [
        opening not in trained for opening in preferences["opening"]
    ]
    assert preferences.query("split == 'test'")["unseen_opening"].all()
    assert not preferences.query("split == 'train'")["unseen_opening"].any()


BROKEN = [
    "{not json",
    asked("A?", "same", "same "),
    asked("B?", ""),
    asked("C? <|im_end|>", "y"),
    asked("D? " * 100, "y"),
    {"text": "plain"},
]
REASONS = [
    "not_json",
    "chosen_equals_rejected",
    "empty_answer",
    "special_token",
    "prompt_too_long",
    "not_a_pair",
]


def good_pairs() -> list[dict[str, Any]]:
    return [asked(f"Number {i}", f"yes {i}") for i in range(120)]


def test_broken_rows_are_counted_and_named(workspace: Workspace, make_settings: Make) -> None:
    replace_raw(workspace, "preferences", helpful=[*good_pairs(), *BROKEN, good_pairs()[0]])
    prepare(make_settings(), workspace)
    told, details = metrics(workspace), read_json(workspace.details("prepare"))
    assert told["broken"] == len(BROKEN) and told["dropped"] == len(BROKEN) + 1
    assert all(told[f"preferences_dropped_{reason}"] == 1 for reason in [*REASONS, "duplicate"])
    found = {(row["use"], row["file"], row["line"], row["reason"]) for row in details["broken"]}
    assert found == {
        ("preferences", "helpful.jsonl.gz", 121 + i, reason) for i, reason in enumerate(REASONS)
    }
    assert "helpful.jsonl.gz:121 not_json" in told["broken_first"]
    outcomes = details["files"]["preferences: helpful.jsonl.gz"]
    assert (
        sum(outcomes.values()) == 127
        and sum(outcomes[split] for split in SPLITS["preferences"]) == 120
    )


def test_broken_rows_can_be_refused(workspace: Workspace, make_settings: Make) -> None:
    replace_raw(workspace, "preferences", helpful=[*good_pairs(), *BROKEN])
    told = r"helpful\.jsonl\.gz:121: not_json in data\.preferences \(and 5 more.*`dvc repro -f -s fetch` reads it again"
    with pytest.raises(DataError, match=told):
        prepare(make_settings(broken="refuse"), workspace)
    assert not workspace.prepared.exists() and not workspace.details("prepare").exists()
    assert len(read_json(workspace.failures / "prepare_details.json")["broken"]) == 6
    replace_raw(workspace, "preferences", helpful=[*good_pairs(), good_pairs()[0]])
    prepare(make_settings(broken="refuse"), workspace)  # a duplicate is no fault


LIMITS = {
    "preferences.train.helpful": 7,
    "preferences.train": 20,
    "preferences.test.harmless": 3,
    "sft.train": 11,
    "pretrain.train": 4,
}


def test_limits_keep_the_first_of_the_same_order(
    workspace: Workspace, make_settings: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"max_prompt_tokens": 40, "max_response_tokens": 300}
    prepare(make_settings(**settings), workspace)
    whole = {name: read_table(workspace, name) for name in SPLITS}
    assert (
        metrics(workspace)["preferences_dropped_prompt_too_long"] > 20
    )  # limits count rows that fit

    def first(count: int, table: str, split: str, kind: str | None) -> list[str]:
        frame = whole[table][whole[table]["split"] == split]
        return list((frame if kind is None else frame[frame["kind"] == kind])["id"].head(count))

    accounts = []
    for chunk in (1024, 5):
        monkeypatch.setattr(encode, "CHUNK", chunk)
        prepare(make_settings(**settings, limits=LIMITS), workspace)
        accounts.append((metrics(workspace), read_json(workspace.details("prepare"))))
        for table, split, kind, count in (
            ("preferences", "train", "helpful", 7),
            ("preferences", "train", "harmless", 13),
            ("preferences", "test", "harmless", 3),
            ("preferences", "test", "helpful", 1000),
            ("sft", "train", None, 11),
            ("pretrain", "train", None, 4),
        ):
            kept = read_table(workspace, table, split=split, kind=kind)
            assert list(kept["id"]) == first(count, table, split, kind)
        assert len(read_table(workspace, "preferences", split="train")) == 20
    assert accounts[0] == accounts[1]  # how many rows are tokenised at once leaves no trace


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


def test_long_answers_are_cut_or_dropped_and_counted(
    workspace: Workspace, make_settings: Make
) -> None:
    pairs = good_pairs()
    pairs[0]["rejected"] = "word " * 60
    pairs[1]["chosen"], pairs[1]["rejected"] = "word " * 60 + "a", "word " * 60 + "b"
    replace_raw(workspace, "preferences", helpful=pairs)
    replace_raw(workspace, "sft", helpful=pairs)
    prepare(make_settings(max_response_tokens=16), workspace)
    told = metrics(workspace)
    assert (told["preferences_rejected_truncated"], told["preferences_chosen_truncated"]) == (1, 0)
    assert told["preferences_dropped_equal_once_cut"] == 1  # nothing is left to prefer
    assert told["sft_response_truncated"] == 1
    assert max(read_table(workspace, "preferences")["rejected_ids"].map(len)) == 16
    prepare(make_settings(max_response_tokens=16, long_responses="drop"), workspace)
    told = metrics(workspace)
    assert (
        told["preferences_dropped_long_response"],
        told["sft_dropped_long_response"],
        told["broken"],
    ) == (2, 1, 0)


def test_texts_are_joined_to_windows(
    workspace: Workspace, make_settings: Make, tokenizer: PreTrainedTokenizerBase
) -> None:
    texts = [{"text": f"Text {i} goes on and on."} for i in range(40)]
    replace_raw(workspace, "pretrain", texts=texts)
    prepare(make_settings(pretrain_tokens=32, validation_fraction=0), workspace)
    frame = read_table(workspace, "pretrain")
    assert {len(ids) for ids in frame["input_ids"]} == {32} and set(frame["split"]) == {"train"}
    joined = tokenizer.decode([token for ids in frame["input_ids"] for token in ids])
    assert "".join(frame["text"]) == joined and joined.count("\n\n") >= 35
    replace_raw(workspace, "pretrain", texts=texts[:1])
    prepare(make_settings(pretrain_tokens=512, validation_fraction=0), workspace)
    assert list(read_table(workspace, "pretrain")["text"]) == ["Text 0 goes on and on.\n\n"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"limits": {"sft.dev": 3}}, r"data\.limits\.sft\.dev: unknown"),
        ({"test_fraction": 0, "max_prompt_tokens": 3}, r"data\.sft: no rows left for train"),
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
