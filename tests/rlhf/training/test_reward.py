import json
import math
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import EOS, GOOD, PAD, copy_workspace, numbers, tiny_settings
from transformers import PreTrainedModel

from rlhf.batches.plan import Limits, epoch_plan
from rlhf.batches.tables import read_table, table_path
from rlhf.engine import make_engine
from rlhf.models.heads import NOTE_FILE, ScalarModel, load_scalar_model, new_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.training import reward
from rlhf.training.pair_reader import PairReader
from rlhf.workspace import Workspace

SUMMED_UP = {
    "accuracy_helpful",
    "accuracy_harmless",
    "accuracy_unseen_openings",
    "margin_mean",
    "calibration_error",
    "seconds",
    "tokens_per_second",
}
LOGGED = {"pair_loss", "lm_loss", "train_accuracy", "learning_rate", "gradient_norm"}
LEARN = {"epochs": 3.0, "batch_tokens": 256, "optimizer.learning_rate": 3e-3}


def changes(role: str = "reward", **more: Any) -> dict[str, Any]:
    keys = LEARN | {key.replace("__", "."): value for key, value in more.items()}
    return {f"{role}.{key}": value for key, value in keys.items()}


@torch.no_grad()
def slow_scores(
    model: ScalarModel, workspace: Workspace, split: str
) -> tuple[list[float], list[float]]:
    """Scores of the chosen and of the rejected answers, one sequence at a time."""
    by_answer: dict[str, list[float]] = {"chosen_ids": [], "rejected_ids": []}
    for _, row in read_table(workspace, "preferences", split=split).iterrows():
        for name, scores in by_answer.items():
            ids = torch.tensor([[*row["prompt_ids"].tolist(), *row[name].tolist()]])
            hidden = model.lm.base_model(input_ids=ids).last_hidden_state[0, -1]
            scores.append(float(model.head(hidden)))
    return by_answer["chosen_ids"], by_answer["rejected_ids"]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def learnt(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """An easy preference after three epochs; only to be read."""
    workspace = copy_workspace(prepared, tmp_path_factory.mktemp("learnt"))
    reward.train(tiny_settings(changes()), workspace)
    return workspace


def test_it_learns_an_easy_preference_and_says_how_well(learnt: Workspace) -> None:
    summary = json.loads(learnt.metrics("reward").read_text())
    first, *rows = numbers(learnt.steps("reward"))
    assert summary["accuracy"] >= 0.95
    assert summary["accuracy_low"] < summary["accuracy"]
    assert rows[-1]["validation_accuracy"] >= 0.9
    assert rows[-1]["pair_loss"] < 0.4 < rows[0]["pair_loss"]

    assert (summary["pairs_trained"], summary["pairs_tested"]) == (48, 24)
    assert all(summary[key] is not None for key in SUMMED_UP)
    assert first.keys() == {
        "step",
        "validation_accuracy",
        "validation_loss",
        "validation_margin",
    }
    assert all(row.keys() >= LOGGED for row in rows)


@torch.no_grad()
def test_what_was_saved_is_what_was_measured(learnt: Workspace) -> None:
    summary = json.loads(learnt.metrics("reward").read_text())
    model = load_scalar_model(learnt.model("reward"))
    chosen, rejected = slow_scores(model, learnt, "test")
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    assert summary["margin_mean"] == pytest.approx(mean(margins), abs=1e-4)
    assert summary["score_mean"] == pytest.approx(mean(chosen + rejected), abs=1e-4)
    assert summary["loss"] == pytest.approx(mean(losses), abs=1e-4)
    details = json.loads(learnt.details("reward").read_text())
    assert sum(details["margin_histogram"]["helpful"]) == 12


@torch.no_grad()
def test_the_origin_that_the_loss_leaves_open_is_the_mean_of_held_out_scores(
    learnt: Workspace,
) -> None:
    model = load_scalar_model(learnt.model("reward"))
    held_out = torch.tensor(slow_scores(model, learnt, "validation"))
    assert float(held_out.mean()) == pytest.approx(0.0, abs=1e-5)
    note = json.loads((learnt.model("reward") / NOTE_FILE).read_text())
    assert note["score_std"] == pytest.approx(float(held_out.std()), abs=1e-4)
    assert note["role"] == "reward"


def test_gold_learns_from_pairs_of_its_own_under_another_seed(workspace: Workspace) -> None:
    settings = tiny_settings(changes("gold", max_steps=2))
    reward.train(settings, workspace, "gold")
    summary = json.loads(workspace.metrics("gold").read_text())
    assert (summary["pairs_trained"], summary["steps"]) == (16, 2)
    assert summary["pairs_tested"] == 24
    sft = workspace.model("sft")
    gold, other = (new_scalar_model(sft, settings.seed, role) for role in ("gold", "reward"))
    assert not torch.equal(gold.head.weight, other.head.weight)


@torch.no_grad()
def slow_nll(model: PreTrainedModel, prompt: list[int], answer: list[int]) -> list[float]:
    """-log p of each token of an answer."""
    logprobs = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(dim=1)
    start = len(prompt) - 1
    return [-float(logprobs[start + t, token]) for t, token in enumerate(answer)]


def test_the_first_loss_equals_a_loop_over_pairs(workspace: Workspace, prepared: Workspace) -> None:
    settings = tiny_settings(changes(epochs=0.5, lm_coefficient=0.7))
    model = new_scalar_model(prepared.model("sft"), settings.seed, "reward")
    lm = load_causal_lm(prepared.model("sft"))
    table = read_table(prepared, "preferences", split="train")
    reader = PairReader(table, PAD, make_engine(settings.engine))
    plan = epoch_plan(reader.tokens, Limits(256, 4, 128), 0.5, settings.seed, "reward")
    batch = plan[0]

    # 1. one pair at a time
    chosen, rejected = slow_scores(model, prepared, "train")
    margins = [chosen[item] - rejected[item] for item in batch]
    nll: list[float] = []
    for item in batch:
        row = table.iloc[item]
        nll += slow_nll(lm, row["prompt_ids"].tolist(), row["chosen_ids"].tolist())

    # 2. the reader, and the first row of the step log
    with torch.no_grad():
        found_margins, found_nll = reader.margins_and_nll(model, batch, with_lm=True)
    assert found_margins.tolist() == pytest.approx(margins, abs=1e-5)
    assert found_nll.tolist() == pytest.approx(nll, abs=1e-5)

    reward.train(settings, workspace)
    first = numbers(workspace.steps("reward"))[1]
    losses = [math.log1p(math.exp(-margin)) for margin in margins]
    assert first["pair_loss"] == pytest.approx(mean(losses), abs=1e-5)
    assert first["lm_loss"] == pytest.approx(mean(nll), abs=1e-5)


@torch.no_grad()
def test_all_pairs_are_scored_in_the_order_of_the_table(prepared: Workspace) -> None:
    model = load_scalar_model(prepared.model("reward"))
    table = read_table(prepared, "preferences", split="test")
    reader = PairReader(table, PAD, make_engine(tiny_settings().engine))
    scores = reader.score_all(model, tokens=60)
    chosen, rejected = slow_scores(model, prepared, "test")
    assert scores.chosen == pytest.approx(chosen, abs=1e-5)
    assert scores.rejected == pytest.approx(rejected, abs=1e-5)


def test_balanced_kinds_are_seen_equally_often_in_an_epoch(workspace: Workspace) -> None:
    path = table_path(workspace, "preferences")
    table = pd.read_parquet(path)
    scarce = (table["split"] == "train") & (table["kind"] == "helpful")
    table[~scarce | (scarce.cumsum() <= 10)].to_parquet(path)
    reward.train(tiny_settings(changes(balance_kinds=True, max_steps=1)), workspace)
    summary = json.loads(workspace.metrics("reward").read_text())
    assert (summary["pairs_trained"], summary["pairs_per_epoch"]) == (24 + 10, 24 + 24)


def test_without_the_imitation_loss_there_is_none_to_log(workspace: Workspace) -> None:
    reward.train(tiny_settings(changes(lm_coefficient=0.0, max_steps=2)), workspace)
    assert all("lm_loss" not in row for row in numbers(workspace.steps("reward")))


def test_micro_batches_change_no_number(workspace: Workspace) -> None:
    runs = []
    for size in (30, 256):
        small_steps = changes(micro_batch_tokens=size, optimizer__epsilon=1e-4, epochs=1.0)
        reward.train(tiny_settings(small_steps), workspace)
        runs.append(numbers(workspace.steps("reward")))
    assert len(runs[0]) == len(runs[1])
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, abs=5e-4)


def test_a_batch_holds_each_prompt_once(prepared: Workspace) -> None:
    table = read_table(prepared, "preferences", split="train")
    reader = PairReader(table, PAD, make_engine(tiny_settings().engine))
    assert len(reader) == 48
    batch = reader.batch([3, 5])
    ids, targets = batch.tokens.input_ids, batch.tokens.target_mask
    for row, item in enumerate((3, 5)):
        names = ("prompt_ids", "chosen_ids", "rejected_ids")
        prompt, chosen, rejected = (table[name].iloc[item].tolist() for name in names)
        joined = prompt + chosen + rejected
        assert ids[row, : len(joined)].tolist() == joined
        assert ids[row][targets[row]].tolist() == chosen and GOOD in chosen
        # the score is read at the end of turn
        assert ids[row, batch.last[row]].tolist() == [EOS, EOS]
        assert reader.tokens[item] == len(joined)
