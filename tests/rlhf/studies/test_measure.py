import math
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tiny import copy_workspace, tiny_settings

from rlhf.batches.tables import read_table
from rlhf.core.steps import StepLog, read_steps
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.plain_text import plain_text_loss
from rlhf.models.heads import load_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.settings import Settings
from rlhf.studies.measure import (
    checked_additions,
    first_mean_last,
    gold_scores,
    judged_validations,
    logged_at_validations,
    run_record,
)
from rlhf.training import loop, reward
from rlhf.workspace import Workspace


@pytest.fixture(scope="module")
def settings() -> Settings:
    return tiny_settings({"ppo.iterations": 3})


@pytest.fixture(scope="module")
def finished(
    prepared: Workspace, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> Workspace:
    """A policy run and a gold model; only to be read."""
    workspace = copy_workspace(prepared, tmp_path_factory.mktemp("measured"))
    reward.train(tiny_settings({"gold.max_steps": 2}), workspace, "gold")
    loop.train(settings, workspace)
    return workspace


@torch.no_grad()
def slow_gold_scores(workspace: Workspace) -> list[float]:
    """One sample at a time, in units of the std of the gold model's scores."""
    gold = load_scalar_model(workspace.model("gold"), unit_scale=True)
    prompts = read_table(workspace, "prompts", split="validation")["prompt_ids"]
    scores = []
    for place, row in enumerate(read_steps(workspace.samples("ppo"))):
        # four prompts at each validation
        ids = [*prompts[place % 4].tolist(), *map(int, row["response_ids"].split())]
        hidden = gold.lm.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        scores.append(float(gold.head(hidden)))
    return scores


@torch.no_grad()
def slow_plain_text_loss(workspace: Workspace) -> float:
    """-log p of every token of the validation windows, one window at a time."""
    model = load_causal_lm(workspace.model("policy"))
    losses: list[float] = []
    for window in read_table(workspace, "pretrain", split="validation")["input_ids"]:
        ids = torch.tensor([window.tolist()])
        logprobs = model(input_ids=ids).logits.log_softmax(-1)[0, :-1]
        losses += (-logprobs.gather(1, ids[0, 1:, None])).flatten().tolist()
    return sum(losses) / len(losses)


def test_the_mean_over_a_run_is_without_where_it_began() -> None:
    found = first_mean_last("gold", [-1.0, 0.5, 1.0, 0.0])
    assert found == {"gold_first": -1.0, "gold_mean": 0.5, "gold_last": 0.0}
    assert first_mean_last("gold", [2.0])["gold_mean"] == 2.0


def test_samples_are_scored_by_the_gold_model(finished: Workspace, settings: Settings) -> None:
    samples = read_steps(finished.samples("ppo"))
    found = gold_scores(settings, finished, samples)
    assert found == pytest.approx(slow_gold_scores(finished), abs=1e-5)


def test_the_tax_is_the_loss_on_plain_text(finished: Workspace, settings: Settings) -> None:
    engine = TorchEngine(settings.engine)
    found = plain_text_loss(finished.model("policy"), finished, engine)
    assert found == pytest.approx(slow_plain_text_loss(finished), abs=1e-5)


def test_a_run_s_record_holds_curves_validations_and_a_summary(
    finished: Workspace, settings: Settings
) -> None:
    record = run_record(settings, finished)
    looks, summary = record["looks"], record["summary"]
    assert [row["step"] for row in looks] == [0, 2, 3]
    first_scores = slow_gold_scores(finished)[:4]
    assert looks[0]["gold"] == pytest.approx(sum(first_scores) / 4, abs=1e-5)
    assert summary["gold_first"] == looks[0]["gold"]
    assert summary["gold_last"] == looks[-1]["gold"]
    assert summary["plain_text_loss"] == pytest.approx(slow_plain_text_loss(finished), abs=1e-5)

    # a validation comes before its iteration learns; the last one after all have
    steps = read_steps(finished.steps("ppo"))
    sampled = {row["step"]: row.get("tokens", 0.0) for row in steps}
    assert [row["tokens"] for row in looks] == [
        sum(tokens for step, tokens in sampled.items() if step < look["step"]) for look in looks
    ]
    assert looks[0]["tokens"] == sampled[-1] > 0
    assert looks[0]["kl"] == pytest.approx(0.0, abs=1e-6) != looks[-1]["kl"]
    assert summary["credit_auc_first"] == 0.5 != summary["credit_auc_last"]
    assert "pair_credit_auc_last" not in summary

    curves = record["curves"]
    assert [row["step"] for row in curves] == [-1, 0, 1, 2]
    assert all(math.isfinite(value) for row in curves for value in row.values())


def test_pairs_that_are_one_word_apart_tell_where_credit_belongs(finished: Workspace) -> None:
    changes = {"ppo.iterations": 3, "data.preferences": ["planted:9"]}
    summary = run_record(tiny_settings(changes), finished)["summary"]
    assert summary["pair_credit_auc_first"] == 0.5 != summary["pair_credit_auc_last"]
    assert summary["pair_credit_auc_last"] != summary["credit_auc_last"]


def test_what_a_moving_reward_ranks_right_is_there_by_validation(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with closing(StepLog(workspace.steps("ppo"))) as log:
        log.write(-1, {"tokens": 5.0, "pair_accuracy": 0.1})
        log.write(0, {"tokens": 7.0, "validation_kl": 0.0, "validation_pair_accuracy": 0.5})
        log.write(1, {"tokens": 9.0})
        log.write(2, {"validation_kl": 0.25, "validation_pair_accuracy": 0.75})
    assert logged_at_validations(workspace) == {
        0: {"kl": 0.0, "tokens": 5.0, "ranked_right": 0.5},
        2: {"kl": 0.25, "tokens": 21.0, "ranked_right": 0.75},
    }


def test_the_tail_of_the_rewards() -> None:
    samples = [{"step": 0, "reward": float(n)} for n in range(21)]
    samples += [{"step": 5, "reward": 1.0}] * 3
    first, second = judged_validations(samples, [0.5] * 24)
    # 95th percentile 19, median 10
    assert (first["reward_tail"], second["reward_tail"]) == (9.0, 0.0)
    assert (first["gold"], first["reward"]) == (0.5, 10.0)


def addition_row(prompt: str, *lines: str) -> dict[str, str]:
    return {"prompt": f"user: {prompt}", "response": "\n".join(lines)}


def test_answers_to_additions_are_checked_line_by_line() -> None:
    samples = [
        addition_row("17+25", "7+5+0=12", "1+2+1=04", "042"),
        addition_row("17+25", "7+5+0=12", "1+2+1=04", "042"),
        # the sum, by luck: a wrong line before it
        addition_row("17+25", "7+5+0=02", "1+2+1=04", "042"),
        addition_row("17+25", "7+5+0=12", "043"),
        addition_row("17+25", ""),
    ]
    assert checked_additions(samples) == {"right": 3 / 5, "flawed": 1 / 3, "lines": 12 / 5}
    assert checked_additions(samples[3:])["flawed"] == 0.0
    # other prompts have no such figures
    assert checked_additions([*samples, addition_row("How many?", "042")]) == {}
