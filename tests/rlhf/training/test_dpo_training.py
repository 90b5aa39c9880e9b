import json
import math
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import copy_workspace, numbers, outcome, tiny_model, tiny_settings, tiny_tokenizer
from transformers import PreTrainedModel

from rlhf.batches.plan import Limits, epoch_plan
from rlhf.batches.tables import read_table, table_path
from rlhf.common.errors import ModelError, SettingsError
from rlhf.common.files import weights_sha256
from rlhf.models.dpo import NOTE_FILE, load_dpo_model, read_dpo_note
from rlhf.models.saving import load_causal_lm, save_causal_lm
from rlhf.settings.variants import dpo_section
from rlhf.stages import STAGES
from rlhf.training import dpo
from rlhf.training.pair_reader import PairReader
from rlhf.workspace import OFF_FILE, Workspace

BETA = 0.3
MEASURED = ("loss", "accuracy", "margin", "chosen_logprob", "rejected_logprob")


def changes(**more: Any) -> dict[str, Any]:
    """The section as the variants write it for the preset `tiny`, with some keys changed."""
    section = dpo_section(tiny_settings().model_dump(mode="json", by_alias=True))
    optimizer = {**section["optimizer"], "learning_rate": 1e-3}
    learn = {"beta": BETA, "epochs": 3.0, "batch_tokens": 256, "optimizer": optimizer}
    return {"dpo": {**section, **learn, **more}}


@torch.no_grad()
def slow_sums(
    model: PreTrainedModel, workspace: Workspace, split: str
) -> list[tuple[float, float]]:
    """log pi of the chosen and the rejected answer of each pair, one sequence at a time."""
    found = []
    for _, row in read_table(workspace, "preferences", split=split).iterrows():
        sums = []
        for name in ("chosen_ids", "rejected_ids"):
            prompt, answer = row["prompt_ids"].tolist(), row[name].tolist()
            logprobs = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(dim=1)
            start = len(prompt) - 1
            sums.append(sum(float(logprobs[start + t, token]) for t, token in enumerate(answer)))
        found.append((sums[0], sums[1]))
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def learnt(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """An easy preference after three epochs; only to be read."""
    workspace = copy_workspace(prepared, tmp_path_factory.mktemp("learnt"))
    dpo.train(tiny_settings(changes()), workspace)
    return workspace


def test_it_learns_an_easy_preference_and_says_how_well(learnt: Workspace) -> None:
    summary = json.loads(learnt.metrics("dpo").read_text())
    first, *rows = numbers(learnt.steps("dpo"))
    assert summary["accuracy"] >= 0.9
    assert rows[-1]["validation_accuracy"] >= 0.9
    assert rows[-1]["train_loss"] < 0.4 < rows[0]["train_loss"]
    assert first.keys() == {"step", *(f"validation_{name}" for name in MEASURED)}
    assert all(row.keys() >= {f"train_{name}" for name in MEASURED} for row in rows)
    assert (summary["pairs_trained"], summary["pairs_tested"]) == (48, 24)
    # what MLflow and DVC pick of it
    written = {key for row in [first, *rows] for key in row}
    assert set(STAGES["dpo"].key_curves) <= written
    assert set(STAGES["dpo"].key_metrics) <= summary.keys()


def test_before_the_first_step_it_is_its_reference(learnt: Workspace) -> None:
    """The margins are 0 to the bit: reference and model are the same numbers."""
    first, second, *_ = numbers(learnt.steps("dpo"))
    assert first["validation_margin"] == 0.0
    assert first["validation_loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert second["train_loss"] == pytest.approx(math.log(2), abs=1e-5)


@torch.no_grad()
def test_what_was_saved_is_what_was_measured(learnt: Workspace) -> None:
    summary = json.loads(learnt.metrics("dpo").read_text())
    model, reference = (load_causal_lm(learnt.model(name)) for name in ("dpo", "sft"))
    ours, theirs = slow_sums(model, learnt, "test"), slow_sums(reference, learnt, "test")
    rewards = [
        [BETA * (sums[side] - other[side]) for side in (0, 1)]
        for sums, other in zip(ours, theirs, strict=True)
    ]
    margins = [chosen - rejected for chosen, rejected in rewards]
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    assert summary["margin_mean"] == pytest.approx(mean(margins), abs=1e-4)
    assert summary["test_loss"] == pytest.approx(mean(losses), abs=1e-4)
    assert summary["accuracy"] == mean([float(margin > 0) for margin in margins])
    assert summary["test_chosen_logprob"] == pytest.approx(mean([c for c, _ in ours]), abs=1e-3)
    assert summary["test_rejected_logprob"] == pytest.approx(mean([r for _, r in ours]), abs=1e-3)
    before = summary["test_reference_chosen_logprob"]
    assert before == pytest.approx(mean([c for c, _ in theirs]), abs=1e-3)
    details = json.loads(learnt.details("dpo").read_text())
    assert sum(details["margin_histogram"]["helpful"]) == 12


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, lambda h: math.log1p(math.exp(-h))),
        (
            {"label_smoothing": 0.2},
            lambda h: 0.8 * math.log1p(math.exp(-h)) + 0.2 * math.log1p(math.exp(h)),
        ),
        ({"loss": "ipo"}, lambda h: (h / BETA - 0.5 / BETA) ** 2),
    ],
    ids=["sigmoid", "smoothed", "ipo"],
)
def test_the_losses_of_a_step_equal_a_loop_over_pairs(
    workspace: Workspace, keys: dict[str, Any], expected: Any
) -> None:
    """Of the second step: in the first all margins are 0."""
    # A schedule that knows nothing of how many steps come, and a rate at which one step moves the margins.
    constant = {"decay": "constant", "warmup_fraction": 0.0, "learning_rate": 5e-3}
    optimizer = {**changes()["dpo"]["optimizer"], **constant}
    models = []
    for steps in (1, 2):
        section = changes(epochs=0.5, max_steps=steps, optimizer=optimizer, **keys)
        settings = tiny_settings(section)
        dpo.train(settings, workspace)
        models.append(load_causal_lm(workspace.model("dpo")))
    second = numbers(workspace.steps("dpo"))[2]

    table = read_table(workspace, "preferences", split="train")
    lengths = [
        sum(len(row[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected"))
        for _, row in table.iterrows()
    ]
    batch = epoch_plan(lengths, Limits(256, 4, 128), 0.5, settings.seed, "dpo")[1]
    ours = slow_sums(models[0], workspace, "train")
    theirs = slow_sums(load_causal_lm(workspace.model("sft")), workspace, "train")
    margins = [
        BETA * ((ours[row][0] - theirs[row][0]) - (ours[row][1] - theirs[row][1])) for row in batch
    ]
    assert max(abs(h) for h in margins) > 0.02
    assert second["train_loss"] == pytest.approx(mean([expected(h) for h in margins]), abs=2e-4)
    assert second["train_margin"] == pytest.approx(mean(margins), abs=2e-4)


def test_micro_batches_change_no_number(workspace: Workspace) -> None:
    runs = []
    for size in (30, 256):
        optimizer = {**changes()["dpo"]["optimizer"], "epsilon": 1e-4}
        section = changes(micro_batch_tokens=size, epochs=1.0, optimizer=optimizer)
        dpo.train(tiny_settings(section), workspace)
        runs.append(numbers(workspace.steps("dpo")))
    assert len(runs[0]) == len(runs[1])
    for one, other in zip(*runs, strict=True):
        # a margin of exactly 0 is on neither side of it
        shown = {key: value for key, value in one.items() if "accuracy" not in key}
        assert shown == pytest.approx({key: other[key] for key in shown}, abs=1e-3)


def test_the_same_run_twice_gives_the_same_files(learnt: Workspace, workspace: Workspace) -> None:
    dpo.train(tiny_settings(changes()), workspace)
    assert outcome(workspace, "dpo", "dpo") == outcome(learnt, "dpo", "dpo")


def test_the_reference_is_asked_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on finds what the reference said; other pairs are another run."""
    read: list[int] = []
    batch = PairReader.batch

    def counted(self: PairReader, rows: Any) -> Any:
        read.append(len(rows))
        return batch(self, rows)

    monkeypatch.setattr(PairReader, "batch", counted)
    pairs = 48 + 12 + 24
    dpo.train(tiny_settings(changes(max_steps=1)), workspace)
    once = sum(read)
    read.clear()
    dpo.train(tiny_settings(changes(max_steps=1)), workspace)
    assert sum(read) == once - pairs


def test_balanced_kinds_are_seen_equally_often_in_an_epoch(workspace: Workspace) -> None:
    path = table_path(workspace, "preferences")
    table = pd.read_parquet(path)
    scarce = (table["split"] == "train") & (table["kind"] == "helpful")
    table[~scarce | (scarce.cumsum() <= 10)].to_parquet(path)
    dpo.train(tiny_settings(changes(balance_kinds=True, max_steps=1)), workspace)
    summary = json.loads(workspace.metrics("dpo").read_text())
    assert (summary["pairs_trained"], summary["pairs_per_epoch"]) == (24 + 10, 24 + 24)


def test_frozen_layers_stay_as_they_were(workspace: Workspace) -> None:
    dpo.train(tiny_settings(changes(trainable_layers=1, max_steps=2)), workspace)
    before, after = (load_causal_lm(workspace.model(name)).state_dict() for name in ("sft", "dpo"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("layers.1." in name or name == "model.norm.weight" for name in moved)


# -- the note --------------------------------------------------------------------------------------


def test_the_note_has_the_reference_and_only_that_one_is_taken(
    learnt: Workspace, workspace: Workspace
) -> None:
    sft = learnt.model("sft")
    note = read_dpo_note(learnt.model("dpo"))
    assert (note.beta, note.loss, note.reference) == (BETA, "sigmoid", weights_sha256(sft))
    load_dpo_model(learnt.model("dpo"), sft)
    # words beside the weights do not matter
    (workspace.model("sft") / "note.txt").write_text("other words")
    load_dpo_model(learnt.model("dpo"), workspace.model("sft"))
    save_causal_lm(tiny_model(9), tiny_tokenizer(), workspace.model("sft"))
    with pytest.raises(ModelError, match=rf"{NOTE_FILE}: trained against a reference .*dvc repro"):
        load_dpo_model(learnt.model("dpo"), workspace.model("sft"))


def test_a_stage_that_is_off_has_no_model(workspace: Workspace) -> None:
    directory = workspace.model("dpo")
    (directory / NOTE_FILE).unlink()
    (directory / OFF_FILE).write_text("{}")
    with pytest.raises(ModelError, match="stage dpo is off"):
        read_dpo_note(directory)
    with pytest.raises(ModelError, match="this is not a model of stage dpo"):
        read_dpo_note(workspace.model("sft"))
    with pytest.raises(SettingsError, match="dpo: null"):
        dpo.train(tiny_settings(), workspace)
