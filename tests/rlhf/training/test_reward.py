import json
import math
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import EOS, GOOD, PAD, numbers, tiny_settings

from rlhf.batches.plan import Limits, epoch_plan
from rlhf.batches.tables import read_table, table_path
from rlhf.engine import make_engine
from rlhf.models.heads import NOTE_FILE, ScalarModel, load_scalar_model, new_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.training import reward
from rlhf.training.reward import PairReader
from rlhf.workspace import Workspace

LEARN = {"epochs": 3.0, "batch_tokens": 256, "optimizer.learning_rate": 3e-3}


def changes(role: str = "reward", **more: Any) -> dict[str, Any]:
    keys = LEARN | {key.replace("__", "."): value for key, value in more.items()}
    return {f"{role}.{key}": value for key, value in keys.items()}


@torch.no_grad()
def slow_scores(
    model: ScalarModel, workspace: Workspace, split: str
) -> tuple[list[float], list[float]]:
    """Scores of the chosen and of the rejected answers, one sequence at a time."""
    found: dict[str, list[float]] = {"chosen_ids": [], "rejected_ids": []}
    for _, row in read_table(workspace, "preferences", split=split).iterrows():
        for name, scores in found.items():
            ids = torch.tensor([[*row["prompt_ids"].tolist(), *row[name].tolist()]])
            hidden = model.lm.base_model(input_ids=ids).last_hidden_state[0, -1]
            scores.append(float(model.head(hidden)))
    return found["chosen_ids"], found["rejected_ids"]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_it_learns_an_easy_preference_and_says_how_well(workspace: Workspace) -> None:
    reward.train(tiny_settings(changes()), workspace)
    summary = json.loads(workspace.metrics("reward").read_text())
    rows = numbers(workspace.steps("reward"))
    assert summary["accuracy"] >= 0.95 and summary["accuracy_low"] < summary["accuracy"]
    promised = {
        "accuracy_helpful",
        "accuracy_harmless",
        "accuracy_unseen_openings",
        "margin_mean",
        "calibration_error",
    }
    assert all(summary[key] is not None for key in promised | {"seconds", "tokens_per_second"})
    assert (summary["pairs_trained"], summary["pairs_tested"]) == (48, 24)
    assert (
        rows[-1]["validation_accuracy"] >= 0.9
        and rows[-1]["pair_loss"] < 0.4 < rows[1]["pair_loss"]
    )
    assert all(
        {"pair_loss", "lm_loss", "train_accuracy", "learning_rate", "gradient_norm"} <= row.keys()
        for row in rows[1:]
    )

    # what was saved is what was measured
    model = load_scalar_model(workspace.model("reward"))
    chosen, rejected = slow_scores(model, workspace, "test")
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    assert summary["margin_mean"] == pytest.approx(mean(margins), abs=1e-4)
    assert summary["score_mean"] == pytest.approx(mean(chosen + rejected), abs=1e-4)
    assert summary["loss"] == pytest.approx(
        mean([math.log1p(math.exp(-margin)) for margin in margins]), abs=1e-4
    )
    held_out = torch.tensor(slow_scores(model, workspace, "validation"))
    assert float(held_out.mean()) == pytest.approx(
        0.0, abs=1e-5
    )  # the origin that the loss leaves open
    note = json.loads((workspace.model("reward") / NOTE_FILE).read_text())
    assert (
        note["score_std"] == pytest.approx(float(held_out.std()), abs=1e-4)
        and note["role"] == "reward"
    )
    details = json.loads(workspace.details("reward").read_text())
    assert sum(details["margin_histogram"]["helpful"]) == 12


def test_gold_learns_from_pairs_of_its_own_under_another_seed(workspace: Workspace) -> None:
    settings = tiny_settings(changes("gold", max_steps=2))
    reward.train(settings, workspace, "gold")
    summary = json.loads(workspace.metrics("gold").read_text())
    assert (summary["pairs_trained"], summary["steps"]) == (16, 2)
    assert summary["pairs_tested"] == 24
    own, other = (
        new_scalar_model(workspace.model("sft"), settings.seed, role) for role in ("gold", "reward")
    )
    assert not torch.equal(own.head.weight, other.head.weight)


def test_the_first_loss_equals_a_loop_over_pairs(workspace: Workspace, prepared: Workspace) -> None:
    settings = tiny_settings(changes(epochs=0.5, lm_coefficient=0.7))
    model, lm = (
        new_scalar_model(prepared.model("sft"), settings.seed, "reward"),
        load_causal_lm(prepared.model("sft")),
    )
    table = read_table(prepared, "preferences", split="train")
    reader = PairReader(table, PAD, make_engine(settings.engine))
    plan = epoch_plan(reader.tokens, Limits(256, 4, 128), 0.5, settings.seed, "reward")
    chosen, rejected = slow_scores(model, prepared, "train")
    pair_losses = [math.log1p(math.exp(rejected[item] - chosen[item])) for item in plan[0]]
    lm_losses: list[float] = []
    for item in plan[0]:
        prompt, answer = (
            table["prompt_ids"].iloc[item].tolist(),
            table["chosen_ids"].iloc[item].tolist(),
        )
        with torch.no_grad():
            logprobs = lm(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(dim=1)
        lm_losses += [
            -float(logprobs[len(prompt) - 1 + t, token]) for t, token in enumerate(answer)
        ]
    with torch.no_grad():
        margins, lm_found = reader.margins_and_lm_losses(model, plan[0], with_lm=True)
    assert margins.tolist() == pytest.approx([chosen[i] - rejected[i] for i in plan[0]], abs=1e-5)
    assert lm_found.tolist() == pytest.approx(lm_losses, abs=1e-5)

    reward.train(settings, workspace)
    first = numbers(workspace.steps("reward"))[1]
    assert first["pair_loss"] == pytest.approx(mean(pair_losses), abs=1e-5)
    assert first["lm_loss"] == pytest.approx(mean(lm_losses), abs=1e-5)


def test_the_scarcer_kind_is_repeated_in_turn() -> None:
    table = pd.DataFrame({"id": list("abcdefg"), "kind": ["helpful", *["harmless"] * 5, "helpful"]})
    found = reward.balanced(table)
    assert found.groupby("kind")["id"].agg("".join).to_dict() == {
        "harmless": "bcdef",
        "helpful": "agaga",
    }
    assert found.index.tolist() == list(range(10))
    same = reward.balanced(found)
    assert sorted(same["id"]) == sorted(found["id"])


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
        settings = tiny_settings(
            changes(micro_batch_tokens=size, optimizer__epsilon=1e-4, epochs=1.0)
        )
        reward.train(settings, workspace)
        runs.append(numbers(workspace.steps("reward")))
    assert len(runs[0]) == len(runs[1])
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, abs=5e-4)


def test_a_batch_holds_each_prompt_once(prepared: Workspace) -> None:
    table = read_table(prepared, "preferences", split="train")
    reader = PairReader(table, PAD, make_engine(tiny_settings().engine))
    batch = reader.batch([3, 5])
    ids, targets = batch.tokens.input_ids, batch.tokens.target_mask
    for row, item in enumerate((3, 5)):
        p, c, r = (
            table[f"{name}_ids"].iloc[item].tolist() for name in ("prompt", "chosen", "rejected")
        )
        assert ids[row, : len(p + c + r)].tolist() == p + c + r
        assert ids[row][targets[row]].tolist() == c and GOOD in c
        assert ids[row, batch.last[row]].tolist() == [
            EOS,
            EOS,
        ]  # the score is read at the end of turn
        assert reader.tokens[item] == len(p + c + r)
    assert len(reader) == 48
