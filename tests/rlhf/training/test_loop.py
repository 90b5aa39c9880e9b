import ast
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
from tiny import copy_workspace, numbers, outcome, same_models, tiny_settings

from rlhf.algorithms.base import Sources, Step, Update, Updates
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.batches.padding import TokenBatch
from rlhf.batches.tables import read_table
from rlhf.engine import Loss
from rlhf.registry import ALGORITHMS
from rlhf.rollout.records import Experience
from rlhf.training import loop
from rlhf.workspace import Workspace
from tests.source_tree import ROOT

VALIDATED = {
    "reward",
    "objective",
    "kl",
    "kl_sequence",
    "surprise",
    "entropy",
    "length",
    "finished",
    "distinct_2",
    "win_rate",
}
LOGGED = {
    "reward", "reward_std", "reward_normalised", "kl", "kl_sequence", "response_length", "finished",
    "perplexity", "entropy", "policy_loss", "value_loss", "ptx_loss", "ratio_mean",
    "ratio_max_deviation", "first_ratio_deviation", "clip_fraction", "value_clip_fraction",
    "explained_variance", "advantage_mean", "advantage_std", "return_mean", "policy_gradient_norm",
    "critic_gradient_norm", "policy_learning_rate", "critic_learning_rate", "tokens",
}  # fmt: skip
SUMMED_UP = {
    "kl_last",
    "perplexity_last",
    "response_length_last",
    "value_loss_last",
    "seconds",
    "rollout_tokens_per_second",
    "update_tokens_per_second",
    "collapse_step",
    "first_ratio_deviation_max",
}


# -- what a run writes --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A run of two epochs over each buffer; only to be read."""
    workspace = copy_workspace(prepared, tmp_path_factory.mktemp("finished"))
    loop.train(tiny_settings({"ppo.mini_batch": 8, "ppo.epochs": 2}), workspace)
    return workspace


def test_every_iteration_has_a_row(finished: Workspace) -> None:
    *rows, final = numbers(finished.steps("ppo"))
    assert [row["step"] for row in rows] == [-1, 0, 1, 2, 3]
    warmup, *learning = rows
    assert all(row.keys() >= LOGGED for row in learning)
    assert "value_loss" in warmup
    assert not {"policy_loss", "policy_gradient_norm"} & warmup.keys()
    # the policy has not moved yet
    assert warmup["kl"] == learning[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    for row in learning:
        assert row["first_ratio_deviation"] < 1e-6
        # of the second epoch
        assert row["ratio_max_deviation"] > 1e-6
    assert all(row["sampler_logprob_gap"] < 1e-5 for row in rows)

    validated = {row["step"] for row in rows if "validation_reward" in row}
    assert validated == {0, 2}
    assert final.keys() == {"step", *(f"validation_{key}" for key in VALIDATED)}
    assert final["step"] == 4


def test_samples_are_those_that_were_validated(finished: Workspace) -> None:
    *rows, final = numbers(finished.steps("ppo"))
    samples = numbers(finished.samples("ppo"))
    assert [row["step"] for row in samples] == [0] * 4 + [2] * 4 + [4] * 4
    assert len({row["prompt"] for row in samples}) == 4
    assert samples[0]["prompt"].startswith("user: w")
    for row in (rows[1], rows[3], final):
        rewards = [sample["reward"] for sample in samples if sample["step"] == row["step"]]
        assert row["validation_reward"] == pytest.approx(sum(rewards) / 4)

    histograms = json.loads(finished.details("ppo").read_text())["reward_histograms"]
    counted = [(entry["step"], sum(entry["counts"])) for entry in histograms]
    assert counted == [(0, 4), (2, 4), (4, 4)]


def test_the_summary_is_of_the_rows(finished: Workspace) -> None:
    _, *learning, _ = numbers(finished.steps("ppo"))
    summary = json.loads(finished.metrics("ppo").read_text())
    first, last = learning[0], learning[-1]
    assert summary["reward_first"] == first["reward"]
    assert summary["reward_last"] == last["reward"]
    assert summary["collapsed"] is False and summary["iterations"] == 4
    assert summary.keys() >= SUMMED_UP
    assert not same_models(finished.model("policy"), finished.model("sft"))


# what the loop itself calls so: the model that it saves, what every sample and validation has
OWN = {
    "policy",
    "length",
    "reward",
    "objective",
    "distinct_2",
    "win_rate",
    "validation_reward",
    "validation_objective",
    "validation_distinct_2",
    "validation_win_rate",
    "step",
    "tokens",
}


@pytest.mark.parametrize("name", ["loop", "monitor", "summary", "validation"])
def test_the_loop_knows_no_role_and_no_metric_by_name(finished: Workspace, name: str) -> None:
    logged = {key for row in numbers(finished.steps("ppo")) for key in row}
    of_validation = {key.removeprefix("validation_") for key in logged}
    known = ({"critic", "reference"} | logged | of_validation) - OWN
    assert known >= (LOGGED | VALIDATED) - OWN

    tree = ast.parse((ROOT / f"rlhf/training/{name}.py").read_text(encoding="utf-8"))
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    assert not texts & known


# -- the best policy ----------------------------------------------------------------------------


def objectives(workspace: Workspace) -> dict[int, float]:
    """The objective of each validation, by its iteration."""
    rows = numbers(workspace.steps("ppo"))
    validated = [row for row in rows if "validation_objective" in row]
    return {row["step"]: row["validation_objective"] for row in validated}


def test_the_policy_of_the_best_validation_is_stored(workspace: Workspace) -> None:
    """A rate that wrecks the policy: the best is the first one, that training started from."""
    changes = {
        "ppo.optimizer.learning_rate": 0.05,
        "ppo.optimizer.warmup_fraction": 0.0,
        "ppo.kl.coefficient": 1.0,
    }
    loop.train(tiny_settings(changes), workspace)
    by_step = objectives(workspace)
    assert max(by_step, key=lambda step: by_step[step]) == 0
    (summary,) = numbers(workspace.metrics("ppo"))
    assert (summary["kept_step"], summary["kept_objective"]) == (0, by_step[0])
    assert same_models(workspace.model("policy"), workspace.model("sft"))

    loop.train(tiny_settings(changes | {"ppo.keep": "last"}), workspace)
    (summary,) = numbers(workspace.metrics("ppo"))
    assert (summary["kept_step"], summary["kept_objective"]) == (4, by_step[4])
    assert not same_models(workspace.model("policy"), workspace.model("sft"))


def test_the_objective_is_reward_less_the_penalty(workspace: Workspace) -> None:
    loop.train(tiny_settings({"ppo.kl.coefficient": 0.3}), workspace)
    validated = [row for row in numbers(workspace.steps("ppo")) if "validation_reward" in row]
    assert len(validated) == 3
    for row in validated:
        # the reward model's note says 0.5
        expected = row["validation_reward"] / 0.5 - 0.3 * row["validation_kl_sequence"]
        assert row["validation_objective"] == pytest.approx(expected, abs=1e-5)


# -- the alarm ----------------------------------------------------------------------------------

COLLAPSE = 3


class Collapsing(PpoMax):
    """PPO-max whose signals are those of a collapsed policy from iteration COLLAPSE on."""

    def updates(self, sources: Sources, iteration: int) -> Updates:
        updates = super().updates(sources, iteration)
        update = next(updates)
        if iteration >= COLLAPSE:
            assert update.signals is not None
            collapsed = replace(update.signals, kl=9.0, response_length=100.0)
            update = replace(update, signals=collapsed)
        shown = yield update
        if iteration >= 0:
            yield updates.send(shown)


@pytest.mark.parametrize(
    ("action", "keep", "last", "stored"),
    [
        ("warn", "best", 8, "best"),
        ("stop", "last", 4, "last"),
        ("return", "last", 4, "best"),
    ],
)
def test_what_the_alarm_does(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    action: str,
    keep: str,
    last: int,
    stored: str,
) -> None:
    monkeypatch.setitem(ALGORITHMS, "ppo-max", f"{__name__}:Collapsing")
    changes = {
        "ppo.iterations": 8,
        "ppo.alarm": {"action": action, "patience": 2},
        "ppo.keep": keep,
        "ppo.samples_every": 1,
    }
    loop.train(tiny_settings(changes), workspace)

    # where the run is stopped, the last iteration has a row too, and learns nothing
    steps = [row["step"] for row in numbers(workspace.steps("ppo"))]
    stopped = [last] if action != "warn" else []
    assert steps == [*range(-1, last), *stopped, last]
    (summary,) = numbers(workspace.metrics("ppo"))
    assert (summary["collapsed"], summary["collapse_step"]) == (True, 4)
    messages = [record.message for record in caplog.records if "collapse at" in record.message]
    (message,) = messages
    assert message.startswith("ppo: collapse at iteration 4: response_length 100")

    if stored == "best":
        # sound by then
        by_step = {step: value for step, value in objectives(workspace).items() if step < COLLAPSE}
        assert summary["kept_step"] == max(by_step, key=lambda step: by_step[step])
    else:
        assert summary["kept_step"] == last


# -- what is learnt from ------------------------------------------------------------------------


@dataclass(frozen=True)
class Noted:
    """A step that the loop asked for: its rows by the sum of their tokens."""

    role: str
    iteration: int
    rows: tuple[int, ...]
    number: int


class Recording(PpoMax):
    """PPO-max that notes its steps, and the first words of the plain text that it asks for."""

    steps: list[Noted] = []  # noqa: RUF012
    words: list[int] = []  # noqa: RUF012

    def updates(self, sources: Sources, iteration: int) -> Updates:
        updates = super().updates(Reading(sources, self.words), iteration)
        update = next(updates)
        shown = yield self.noting(update, iteration)
        if iteration >= 0:
            yield self.noting(updates.send(shown), iteration)

    def noting(self, update: Update[Experience], iteration: int) -> Update[Experience]:
        return replace(update, losses=partial(self.noted_losses, update, iteration))

    def noted_losses(
        self, update: Update[Experience], iteration: int, step: Step[Experience]
    ) -> list[Loss]:
        rows = tuple(step.batch.batch.input_ids.sum(dim=1).tolist())
        self.steps.append(Noted(step.role, iteration, rows, step.number))
        return update.losses(step)


@dataclass(frozen=True)
class Reading:
    """Sources that note the plain text."""

    sources: Sources
    words: list[int]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sources, name)

    def plain_text(self, windows: int, step: int) -> TokenBatch:
        text = self.sources.plain_text(windows, step)
        self.words.extend(text.input_ids[:, 0].tolist())
        return text


def orders_of(steps: list[Noted]) -> list[tuple[int, ...]]:
    """In which order each epoch of an update takes its four mini-batches."""
    assert [step.number for step in steps] == list(range(len(steps)))
    mini_batches = sorted(step.rows for step in steps[:4])
    orders = []
    for start in range(0, len(steps), 4):
        epoch = [step.rows for step in steps[start : start + 4]]
        # their composition stays
        assert sorted(epoch) == mini_batches
        orders.append(tuple(mini_batches.index(rows) for rows in epoch))
    return orders


def test_the_loop_covers_the_buffer_in_every_epoch(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALGORITHMS, "ppo-max", f"{__name__}:Recording")
    monkeypatch.setattr(Recording, "steps", [])
    monkeypatch.setattr(Recording, "words", [])
    changes: Mapping[str, Any] = {
        "ppo.mini_batch": 2,
        "ppo.micro_batch": 1,
        "ppo.epochs": 3,
        "ppo.iterations": 2,
    }
    loop.train(tiny_settings(changes), workspace)
    by_update: dict[tuple[str, int], list[Noted]] = defaultdict(list)
    for step in Recording.steps:
        by_update[step.role, step.iteration].append(step)

    # four mini-batches, for three epochs once the policy learns
    counts = {update: len(steps) for update, steps in by_update.items()}
    expected = {("critic", -1): 4}
    for iteration in (0, 1):
        expected |= {("policy", iteration): 12, ("critic", iteration): 12}
    assert counts == expected

    orders = {update: orders_of(steps) for update, steps in by_update.items()}
    # each epoch in an order of its own, and each update too
    for update, of_epochs in orders.items():
        assert len(set(of_epochs)) == (1 if update == ("critic", -1) else 3)
    assert len({tuple(of_epochs) for of_epochs in orders.values()}) == len(orders)

    # plain text in turn: two windows at each of the policy's steps
    windows = read_table(workspace, "pretrain", split="train")["input_ids"]
    first_words = [int(ids[0]) for ids in windows]
    assert Recording.words == [first_words[place % 10] for place in range(2 * 24)]


def test_the_same_run_twice_gives_the_same_files(workspace: Workspace) -> None:
    outcomes = []
    for seed in (1, 1, 2):
        loop.train(tiny_settings({"seed": seed, "ppo.iterations": 2}), workspace)
        outcomes.append(outcome(workspace, "ppo", "policy"))
    one, again, other = outcomes
    assert one == again
    assert all(one[name] != other[name] for name in one)


def test_micro_batches_change_no_number(workspace: Workspace) -> None:
    runs = []
    for size in (1, 4):
        changes = {"ppo.micro_batch": size, "ppo.iterations": 2, "ppo.optimizer.epsilon": 1e-4}
        loop.train(tiny_settings(changes), workspace)
        runs.append(numbers(workspace.steps("ppo")))
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_no_plain_text_is_read_without_the_ptx_loss(workspace: Workspace) -> None:
    (workspace.prepared / "pretrain.parquet").write_bytes(b"broken")
    loop.train(tiny_settings({"ppo.ptx": None, "ppo.iterations": 1}), workspace)
    assert all("ptx_loss" not in row for row in numbers(workspace.steps("ppo")))
