"""Which policy counts as the best, how long its weights are stored, and what validations show."""

from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from tiny import numbers, prompts_of, same_models, tiny_settings, tiny_tokenizer

from rlhf.algorithms.base import Validation
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.batches.tables import table_path
from rlhf.common.errors import DataError
from rlhf.common.files import read_json
from rlhf.registry import ALGORITHMS
from rlhf.rollout.records import Rollout, Sampled, make_rollout
from rlhf.training import loop
from rlhf.training.validation import Validator, reward_histograms, sample_rows, win_rate
from rlhf.workspace import Workspace

# -- the best policy ----------------------------------------------------------------------------


class Rising(PpoMax):
    """PPO-max whose objective rises from validation to validation, and whose KL leaps at `leap`."""

    count = 0
    leap: int | None = None

    def validate(self, rollout: Rollout) -> Validation:
        validation = super().validate(rollout)
        number, signals = Rising.count, validation.signals
        Rising.count += 1
        assert signals is not None
        if number == Rising.leap:
            signals = replace(signals, kl=1.5)
        objective = torch.full_like(validation.objective, float(number))
        return replace(validation, objective=objective, signals=signals)


@pytest.fixture
def rising(monkeypatch: pytest.MonkeyPatch) -> type[Rising]:
    monkeypatch.setitem(ALGORITHMS, "ppo-max", f"{__name__}:Rising")
    monkeypatch.setattr(Rising, "count", 0)
    return Rising


@pytest.mark.usefixtures("rising")
def test_what_a_checkpoint_names_is_there_until_another_names_better(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored: list[list[str]] = []
    validate = Validator.validate

    def validate_and_look(self: Validator, *arguments: Any) -> Any:
        metrics = validate(self, *arguments)
        best = workspace.checkpoints.glob("ppo/*/best-*")
        stored.append(sorted(path.name for path in best))
        return metrics

    monkeypatch.setattr(Validator, "validate", validate_and_look)
    changes = {"ppo.iterations": 5, "ppo.samples_every": 1, "ppo.checkpoint_every": 3}
    loop.train(tiny_settings(changes), workspace)
    # a checkpoint after iteration 2 names the validation of 2: from then on it stays
    # and the one at the end, before the last validation, names that of 4
    expected = [[0], [1], [2], [2, 3], [2, 4], [4, 5]]
    assert stored == [[f"best-{step:08d}" for step in steps] for steps in expected]
    assert read_json(workspace.metrics("ppo"))["kept_step"] == 5


def test_a_last_policy_that_has_collapsed_is_not_the_best(
    workspace: Workspace, rising: type[Rising], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its iteration's own signals are of the responses before the last update, and sound."""
    monkeypatch.setattr(rising, "leap", 2)
    loop.train(tiny_settings({"ppo.samples_every": 2}), workspace)
    rows = numbers(workspace.steps("ppo"))
    validated = {row["step"]: row for row in rows if "validation_objective" in row}
    assert sorted(validated) == [0, 2, 4]
    assert validated[4]["validation_objective"] > validated[2]["validation_objective"]

    summary = read_json(workspace.metrics("ppo"))
    assert (summary["kept_step"], summary["collapsed"]) == (2, False)
    (best,) = workspace.checkpoints.glob("ppo/*/best-00000002")
    assert same_models(best, workspace.model("policy"))


@pytest.mark.usefixtures("rising")
def test_no_weights_are_stored_where_nobody_asks_for_the_best(workspace: Workspace) -> None:
    """They cost disk."""
    loop.train(tiny_settings({"ppo.keep": "last", "ppo.iterations": 2}), workspace)
    assert not list(workspace.checkpoints.glob("ppo/*/best-*"))


class Colliding(PpoMax):
    """PPO-max with a metric of its own that the loop has already."""

    name = ""

    def validate(self, rollout: Rollout) -> Validation:
        validation = super().validate(rollout)
        return replace(validation, metrics={self.name: validation.objective})


@pytest.mark.parametrize("name", ["reward", "objective", "win_rate", "distinct_2"])
def test_a_metric_called_as_one_of_the_loop_s_is_refused(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(ALGORITHMS, "ppo-max", f"{__name__}:Colliding")
    monkeypatch.setattr(Colliding, "name", name)
    with pytest.raises(ValueError, match=rf"\['{name}'\] are the loop's own"):
        loop.train(tiny_settings(), workspace)


def test_a_table_without_enough_prompts_is_named(workspace: Workspace) -> None:
    path = table_path(workspace, "prompts")
    table = pd.read_parquet(path)
    table[table["split"] != "validation"].to_parquet(path)
    with pytest.raises(DataError, match=r"prompts\.parquet: has no rows of split validation"):
        loop.train(tiny_settings(), workspace)


# -- against the start --------------------------------------------------------------------------


def test_equal_rewards_count_half() -> None:
    start = {3: 1.0, 4: -2.0, 9: 0.5, 11: 0.0}
    assert win_rate({9: 0.5 + 1e-6, 3: 1.1, 11: -9.0, 4: -1.9}, start) == (2 + 0.5) / 4
    assert win_rate(start, start) == 0.5


def test_all_answers_are_set_against_those_of_the_first_validation(workspace: Workspace) -> None:
    loop.train(tiny_settings({"ppo.samples_every": 2}), workspace)
    samples = pd.DataFrame(numbers(workspace.samples("ppo")))
    rewards = samples.pivot(index="row", columns="step", values="reward")
    found = {
        row["step"]: row["validation_win_rate"]
        for row in numbers(workspace.steps("ppo"))
        if "validation_win_rate" in row
    }
    assert sorted(found) == [0, 2, 4] and found[0] == 0.5
    for step, rate in found.items():
        gains = rewards[step] - rewards[0]
        points = (gains > 1e-4) + 0.5 * (gains.abs() <= 1e-4)
        assert rate == pytest.approx(points.mean())
    assert read_json(workspace.metrics("ppo"))["validation_win_rate_last"] == found[4]


# -- what is shown ------------------------------------------------------------------------------


def test_a_sample_has_the_response_as_text_and_as_it_was_drawn() -> None:
    tokenizer = tiny_tokenizer()
    prompts = prompts_of([[2, 9], [2, 10]], positions=[4, 7])
    sampled = Sampled([[5, 3, 1], [6]], [[0.0] * 3, [0.0]])
    rollout = make_rollout(prompts, sampled, eos_id=1, pad_id=0, device=torch.device("cpu"))
    first, second = sample_rows(prompts, rollout, torch.tensor([0.5, -1.0]), tokenizer)
    assert first == {
        "row": 4,
        "kind": "helpful",
        "prompt": "w9",
        "response": "w5 good",
        "response_ids": "5 3 1",
        "reward": 0.5,
        "length": 3,
    }
    assert (second["row"], second["response_ids"], second["reward"]) == (7, "6", -1.0)


def test_histograms_of_rewards_share_their_edges() -> None:
    samples = [{"step": 0, "reward": float(n)} for n in range(5)]
    samples += [{"step": 2, "reward": 4.0}] * 3
    first, second = reward_histograms(samples)
    assert first["edges"] == second["edges"]
    assert first["edges"][0] == 0.0 and first["edges"][-1] == pytest.approx(4.0, abs=1e-5)
    assert len(first["counts"]) == len(first["edges"]) - 1
    assert (sum(first["counts"]), sum(second["counts"])) == (5, 3)
    # the highest reward is in the last bin, the lowest in the first
    assert second["counts"][-1] == 3
    assert first["counts"][0] == first["counts"][-1] == 1


def test_rewards_that_are_all_alike_have_a_histogram() -> None:
    (only,) = reward_histograms([{"step": 1, "reward": 2.0}] * 4)
    assert (only["step"], sum(only["counts"])) == (1, 4)
