"""The stage of the process reward model: its loss one answer at a time, what it measures and writes."""

import copy
import json
import math
from typing import Any

import pandas as pd
import pytest
import torch
from neighbours import PROCESS_MODEL
from tiny import PAD, SEPARATOR, copy_workspace, numbers, tiny_settings

from rlhf.batches.plan import Limits, epoch_plan
from rlhf.batches.tables import read_table, write_table
from rlhf.common.errors import DataError, ModelError, SettingsError
from rlhf.core.tally import Tally
from rlhf.engine import make_engine
from rlhf.models.heads import (
    NOTE_FILE,
    ScalarModel,
    load_scalar_model,
    new_scalar_model,
    separator_of,
)
from rlhf.settings import Settings
from rlhf.training import process
from rlhf.training.run import begin
from rlhf.training.solution_reader import SolutionReader
from rlhf.workspace import Workspace

LOGGED = {"step_loss", "train_accuracy", "learning_rate", "gradient_norm"}


def settings_with(**section: Any) -> Settings:
    """The section of the stage with some keys changed; optimizer__epsilon for a key of the optimiser."""
    changes = copy.deepcopy(dict(PROCESS_MODEL))
    for key, value in section.items():
        *parts, last = key.split("__")
        node = changes["process"]
        for part in parts:
            node = node[part]
        node[last] = value
    return tiny_settings(changes)


@torch.no_grad()
def slow_logits(model: ScalarModel, row: Any) -> list[float]:
    """What the head says at each step end, one answer at a time."""
    ids = torch.tensor([[*row["prompt_ids"].tolist(), *row["response_ids"].tolist()]])
    hidden = model.lm.base_model(input_ids=ids).last_hidden_state[0]
    start = len(row["prompt_ids"])
    return [float(model.head(hidden[start + end])) for end in row["step_ends"]]


def slow_losses(model: ScalarModel, rows: pd.DataFrame) -> list[float]:
    """-y log p - (1 - y) log(1 - p) of every step with a label."""
    losses = []
    for _, row in rows.iterrows():
        for logit, label in zip(slow_logits(model, row), row["labels"].tolist(), strict=True):
            if not math.isnan(label):
                p = 1 / (1 + math.exp(-logit))
                losses.append(-label * math.log(p) - (1 - label) * math.log(1 - p))
    return losses


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def learnt(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Easy steps after three epochs; only to be read."""
    workspace = copy_workspace(prepared, tmp_path_factory.mktemp("learnt"))
    process.train(settings_with(), workspace)
    return workspace


def test_it_learns_easy_steps_and_says_how_well(learnt: Workspace) -> None:
    summary = json.loads(learnt.metrics("process").read_text())
    first, *rows = numbers(learnt.steps("process"))
    assert summary["auc"] > 0.95 and summary["accuracy"] > summary["right_fraction"]
    for aggregate in ("min", "product", "last"):
        assert 0.5 < summary[f"ranking_accuracy_{aggregate}"] <= 1
    assert rows[-1]["step_loss"] < 0.3 < rows[0]["step_loss"]
    table = read_table(learnt, "steps", split="train")
    labels = [label for row in table["labels"] for label in row if not math.isnan(label)]
    assert (summary["answers_trained"], summary["answers_tested"]) == (48, 24)
    # some steps have no label
    assert summary["labels_trained"] == len(labels) < sum(table["step_ends"].map(len))
    assert first.keys() == {"step", "validation_loss", "validation_accuracy", "validation_auc"}
    assert all(row.keys() >= LOGGED for row in rows)


def test_what_was_saved_is_what_was_measured(learnt: Workspace) -> None:
    model = load_scalar_model(learnt.model("process"))
    losses = slow_losses(model, read_table(learnt, "steps", split="test"))
    summary = json.loads(learnt.metrics("process").read_text())
    assert summary["loss"] == pytest.approx(mean(losses), abs=1e-4)
    assert summary["labels_tested"] == len(losses)

    note = json.loads((learnt.model("process") / NOTE_FILE).read_text())
    assert (note["role"], note["read_at"]) == ("process", "step ends")
    assert separator_of(learnt.model("process")) == SEPARATOR
    with pytest.raises(ModelError, match=r"models/reward: not a process reward model"):
        separator_of(learnt.model("reward"))


def test_details_show_the_steps_that_it_judges_most_wrongly(learnt: Workspace) -> None:
    details = json.loads(learnt.details("process").read_text())
    summary = json.loads(learnt.metrics("process").read_text())
    assert sum(row["count"] for row in details["calibration"]) == summary["labels_tested"]
    worst, *others = details["most_wrong"]
    losses = [abs(row["label"] - row["probability"]) for row in (worst, *others)]
    assert losses == sorted(losses, reverse=True) and len(losses) == 10
    # the text up to the step in question, which the label is of
    marker = "good" if worst["label"] else "bad"
    assert marker in worst["steps"][-1].split()
    table = read_table(learnt, "steps", split="test").set_index("id")
    assert worst["messages"] == table.loc[worst["id"], "messages"]


def test_the_first_loss_equals_a_loop_over_answers(
    workspace: Workspace, prepared: Workspace
) -> None:
    settings = settings_with(batch_tokens=128, epochs=0.5)
    model = new_scalar_model(prepared.model("sft"), settings.seed, "process")
    table = read_table(prepared, "steps", split="train")
    reader = SolutionReader(table, PAD, make_engine(settings.engine))
    plan = epoch_plan(reader.tokens, Limits(128), 0.5, settings.seed, "process")
    losses = slow_losses(model, table.iloc[plan[0]])

    process.train(settings, workspace)
    _, first, *_ = numbers(workspace.steps("process"))
    # a mean over the steps with a label of the whole batch, not of each answer
    assert first["step_loss"] == pytest.approx(mean(losses), abs=1e-5)


def test_what_is_stepped_on_is_the_mean_over_the_labels_of_the_whole_batch(
    workspace: Workspace,
) -> None:
    """Whatever the micro-batches; a step without a label is in neither sum nor count."""
    settings = settings_with(micro_batch_tokens=24)
    task = process.ProcessTraining(begin("process", settings, workspace, ["process"], {}))
    table = read_table(workspace, "steps", split="train")
    rows = list(range(8))
    expected = mean(slow_losses(task.model, table.iloc[rows]))
    steps, labels = sum(table["step_ends"].iloc[rows].map(len)), sum(task.answers.labelled[:8])
    assert len({len(rows), labels, steps}) == 3

    parts = task.losses(rows, Tally())
    assert len(parts) > 2
    total = sum(float(loss().detach()) for loss in parts)
    assert total == pytest.approx(expected, abs=1e-5)


def test_soft_labels_count_as_they_are(workspace: Workspace) -> None:
    rows = read_table(workspace, "steps").to_dict("records")
    for row in rows:
        row["labels"] = [0.375] * len(row["labels"])
    write_table(workspace.prepared, "steps", rows)
    settings = settings_with(epochs=12.0)
    process.train(settings, workspace)
    summary = json.loads(workspace.metrics("process").read_text())
    # the entropy of the label is what is left
    entropy = -0.375 * math.log(0.375) - 0.625 * math.log(0.625)
    assert entropy < summary["loss"] < entropy + 0.02
    assert summary["calibration_error"] < 0.1
    # no right one, so nothing to tell apart
    assert summary["auc"] is None and summary["ranking_accuracy_min"] is None
    assert summary["answer_pairs"] == 0
    assert all("validation_auc" not in row for row in numbers(workspace.steps("process")))


def test_steps_without_a_label_are_read_by_no_loss(workspace: Workspace) -> None:
    """A table from which these steps are taken out trains the same model."""
    runs = []
    table = read_table(workspace, "steps")
    for drops in (False, True):
        rows = table.to_dict("records")
        for row in rows:
            known = [not math.isnan(label) for label in row["labels"]]
            if drops:
                row["step_ends"] = [
                    e for e, keep in zip(row["step_ends"], known, strict=True) if keep
                ]
                row["labels"] = [v for v, keep in zip(row["labels"], known, strict=True) if keep]
        write_table(workspace.prepared, "steps", rows)
        process.train(settings_with(epochs=1.0), workspace)
        runs.append(numbers(workspace.steps("process")))
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)


def test_micro_batches_change_no_number(workspace: Workspace) -> None:
    runs = []
    for size in (16, 256):
        process.train(
            settings_with(micro_batch_tokens=size, optimizer__epsilon=1e-4, epochs=1.0), workspace
        )
        runs.append(numbers(workspace.steps("process")))
    assert len(runs[0]) == len(runs[1])
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, abs=5e-4)


def test_all_answers_are_scored_in_the_order_of_the_table(prepared: Workspace) -> None:
    model = load_scalar_model(prepared.model("process"))
    table = read_table(prepared, "steps", split="test")
    reader = SolutionReader(table, PAD, make_engine(tiny_settings().engine))
    scores = reader.score_all(model, tokens=40)
    for (_, row), logits, labels in zip(
        table.iterrows(), scores.logits, scores.labels, strict=True
    ):
        assert logits == pytest.approx(slow_logits(model, row), abs=1e-5)
        assert labels == pytest.approx(row["labels"].tolist(), nan_ok=True)


def test_a_stage_without_its_section_and_a_table_without_rows_are_refused(
    workspace: Workspace,
) -> None:
    with pytest.raises(SettingsError, match="process: null; the stage process needs its section"):
        process.train(tiny_settings(), workspace)
    write_table(workspace.prepared, "steps", [])
    with pytest.raises(DataError, match=r"steps\.parquet: has no rows of split train"):
        process.train(settings_with(), workspace)
