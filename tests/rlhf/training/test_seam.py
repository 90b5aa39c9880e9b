"""The loop with an algorithm that uses what PPO-max does not; `made_up` has it."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import made_up
import pytest
import torch
from made_up import CHANGES, QUIET, MadeUp, Twice
from tiny import copy_workspace, numbers, outcome, same_models, tiny_settings, write_settings
from workers import Harm, Worker

from rlhf.algorithms.base import Inputs
from rlhf.batches.tables import read_table, write_table
from rlhf.common.errors import RlhfError, TrainingError
from rlhf.common.files import read_json
from rlhf.models.saving import load_causal_lm
from rlhf.registry import ALGORITHMS
from rlhf.training import loop
from rlhf.training.run import begin
from rlhf.workspace import Workspace


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, place in made_up.PLACES.items():
            patch.setitem(ALGORITHMS, name, place)
        yield


@dataclass(frozen=True)
class Run:
    """A finished run: where, and what the algorithm noted in it."""

    workspace: Workspace
    events: list[tuple[Any, ...]]
    shown: list[Mapping[str, float]]


@pytest.fixture(scope="module")
def run(prepared: Workspace, known: None, tmp_path_factory: pytest.TempPathFactory) -> Run:
    workspace = copy_workspace(prepared, tmp_path_factory.mktemp("made-up"))
    MadeUp.events.clear()
    MadeUp.shown.clear()
    loop.train(tiny_settings(CHANGES), workspace)
    return Run(workspace, list(MadeUp.events), list(MadeUp.shown))


@pytest.fixture(scope="module")
def rows(run: Run) -> dict[int, dict[str, Any]]:
    """The step log by iteration; the last validation is that of iteration 4."""
    return {row["step"]: row for row in numbers(run.workspace.steps("ppo"))}


# -- an update after another --------------------------------------------------------------------


def test_two_roles_step_in_turn_on_each_mini_batch(run: Run) -> None:
    together = []
    # two epochs over two mini-batches
    for number in range(4):
        for role in ("policy", "partner"):
            together += [("step", "together", role, number), ("after", role)]
    again = [("step", "again", "policy", number) for number in range(2)]
    iteration = together + again
    # the quiet one is not among them
    assert run.events == iteration * 3


def test_a_second_update_sees_models_that_the_first_has_moved(rows: dict[int, Any]) -> None:
    for iteration in (0, 1, 3):
        row = rows[iteration]
        # both are of the same responses, which the first update has made likelier
        assert row["again_nll"] < row["nll"] - 1e-4
        # and of another draw, from the target network
        assert row["again_nll_of_target"] > row["again_nll"]


def test_every_update_is_sent_what_it_showed(run: Run, rows: dict[int, Any]) -> None:
    together, again = run.shown[::2], run.shown[1::2]
    learnt = [rows[iteration] for iteration in (0, 1, 3)]
    for row, first, second in zip(learnt, together, again, strict=True):
        # by the names that the losses gave, whatever the update is called in the log
        assert first == {"loss": row["loss"], "largest": row["largest"]}
        assert second == {"loss": row["again_loss"], "largest": row["again_largest"]}


TWICE: Mapping[str, Any] = {
    **CHANGES,
    "ppo.algorithm": "twice",
    "ppo.mini_batch": 2,
    "ppo.micro_batch": 2,
}


def test_two_updates_of_one_role_keep_apart(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Twice, "orders", [])
    loop.train(tiny_settings(TWICE), workspace)
    *rows, _ = numbers(workspace.steps("ppo"))
    assert len(rows) == 4
    for row in rows:
        # the second goes on where the first has ended
        for key in ("loss", "policy_gradient_norm"):
            assert row[f"again_{key}"] != row[key]
    # it rises in the first steps
    assert rows[0]["again_policy_learning_rate"] > rows[0]["policy_learning_rate"]
    # each of the eight in an order of its own
    assert len(Twice.orders) == 8
    for first, second in zip(Twice.orders[::2], Twice.orders[1::2], strict=True):
        assert sorted(first) == sorted(second) and first != second


def test_two_updates_that_log_the_same_are_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Twice, "names", ("", ""))
    with pytest.raises(ValueError, match=r"log \['largest', .*'policy_learning_rate'\]"):
        loop.train(tiny_settings(TWICE), workspace)


def test_every_role_that_learns_is_logged(rows: dict[int, Any]) -> None:
    for iteration in (0, 1, 3):
        row = rows[iteration]
        for role in ("policy", "partner"):
            assert row[f"{role}_gradient_norm"] > 0 and row[f"{role}_learning_rate"] > 0
        # 8 responses of the policy, and 8 of the target
        assert 16 <= row["tokens"] <= 16 * 6


# -- nothing to learn ---------------------------------------------------------------------------


def test_an_iteration_may_have_nothing_to_learn(rows: dict[int, Any]) -> None:
    assert rows.keys() == {0, 1, 2, 3, 4}
    assert rows[QUIET] == {"step": QUIET}
    assert rows[4].keys() == {
        "step",
        "validation_reward",
        "validation_objective",
        "validation_length",
        "validation_distinct_2",
        "validation_win_rate",
    }


def test_a_summary_is_of_the_iterations_that_have_a_metric(run: Run, rows: dict[int, Any]) -> None:
    summary = read_json(run.workspace.metrics("ppo"))
    assert summary["iterations"] == 4
    assert summary["loss_first"] == rows[0]["loss"]
    assert summary["again_loss_last"] == rows[3]["again_loss"]
    assert summary["largest_max"] == max(rows[iteration]["largest"] for iteration in (0, 1, 3))
    # without the alarm's signals nothing can be said
    assert summary["collapsed"] is None


def test_an_algorithm_may_never_learn(workspace: Workspace) -> None:
    loop.train(tiny_settings({**CHANGES, "ppo.algorithm": "idle"}), workspace)
    *rows, final = numbers(workspace.steps("ppo"))
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    # it is validated as any other, every four iterations
    assert ["validation_reward" in row for row in rows] == [True, False, False, False]
    assert "validation_reward" in final
    assert same_models(workspace.model("policy"), workspace.model("sft"))


# -- weights of rows ----------------------------------------------------------------------------


def test_rows_of_weight_0_count_as_if_they_were_not_there(
    workspace: Workspace, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MadeUp, "removes", True)
    loop.train(tiny_settings(CHANGES), workspace)
    runs = [numbers(each.steps("ppo")) for each in (run.workspace, workspace)]
    for weighted, removed in zip(*runs, strict=True):
        assert weighted == pytest.approx(removed, rel=1e-4, abs=1e-4)
    one, two = (load_causal_lm(each.model("policy")) for each in (run.workspace, workspace))
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(left, right, atol=1e-4, rtol=0)


# -- inputs -------------------------------------------------------------------------------------


def reading(monkeypatch: pytest.MonkeyPatch, tables: tuple[str, ...], model: str) -> None:
    """Let the made-up algorithm read other tables, and another model."""
    inputs = Inputs(tables=tables, models=("sft", model))
    monkeypatch.setattr(MadeUp, "inputs", classmethod(lambda cls, settings: inputs))


def test_a_table_that_a_listed_model_is_made_from_may_be_read(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """models/sft is made from the one, models/reward from the other: DVC sees them change."""
    reading(monkeypatch, ("prompts", "sft", "preferences"), "reward")
    loop.train(tiny_settings({**CHANGES, "ppo.iterations": 1}), workspace)
    assert workspace.metrics("ppo").exists()


def test_a_change_of_such_a_table_does_not_resume(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changed = copy_workspace(prepared, tmp_path)
    rows = read_table(changed, "preferences").to_dict("records")
    write_table(changed.prepared, "preferences", rows[::-1])
    reading(monkeypatch, ("prompts", "preferences"), "reward")
    paths = [MadeUp.inputs(tiny_settings(CHANGES)).paths(each) for each in (prepared, changed)]
    runs = [begin("ppo", tiny_settings(CHANGES), prepared, ["ppo"], inputs) for inputs in paths]
    assert runs[0].checkpoints.directory != runs[1].checkpoints.directory


def test_a_table_that_no_listed_model_is_made_from_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading(monkeypatch, ("prompts", "preferences", "steps"), "reward")
    with pytest.raises(RlhfError, match="reads table steps, which the row of stage ppo does not"):
        loop.train(tiny_settings(CHANGES), workspace)


# -- faults and kills ---------------------------------------------------------------------------


def test_a_refused_step_leaves_its_role_and_the_batch_s_own_evidence(workspace: Workspace) -> None:
    settings = tiny_settings({**CHANGES, "ppo.optimizer.learning_rate": 1e30})
    with pytest.raises(TrainingError, match=r"ppo, step 0: .*\.failures/ppo-step-0"):
        loop.train(settings, workspace)
    (failure,) = workspace.failures.glob("*.json")
    batch = json.loads(failure.read_text())["batch"]
    assert batch == {"trainer": "policy", "weights": [1.0, 0.0, 1.0, 0.0]}


def test_state_with_tensors_survives_a_kill(workspace: Workspace, run: Run) -> None:
    """The target network is no model that is trained: it is in the algorithm's own state."""
    write_settings(workspace, tiny_settings(CHANGES))
    worker = Worker("ppo", workspace.root, Harm(step=3), prepare=made_up.register)
    assert worker.code() == -9, worker.log()
    found = sorted(path.name for path in workspace.checkpoints.glob("ppo/*/step-*"))
    assert found[-1] == "step-00000002"
    shutil.rmtree(workspace.root / "metrics")

    loop.train(tiny_settings(CHANGES), workspace)
    assert outcome(workspace, "ppo", "policy") == outcome(run.workspace, "ppo", "policy")
