"""A run that was killed and started again ends with the same numbers, to the last bit of the weights."""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from neighbours import (
    AIHF,
    AIHF_DIRECT,
    APA,
    DPO,
    ETPO,
    GRPO,
    PROCESS,
    PROCESS_MODEL,
    REINFORCE_PP,
    RLOO,
    RTO,
    lora,
    online_dpo,
    xpo,
)
from tiny import copy_workspace, numbers, outcome, tiny_settings, write_settings
from workers import Harm, Worker, half_written

from rlhf.batches.tables import read_table, write_table
from rlhf.registry import ALGORITHMS
from rlhf.settings import Settings
from rlhf.training import dpo, lengthening, loop, process, reward, sft
from rlhf.training.run import begin
from rlhf.workspace import Workspace

CHANGES: dict[str, Any] = {
    "sft.batch_tokens": 32,
    "sft.epochs": 2.0,
    "sft.checkpoint_every": 3,
    "sft.evaluate_every": 2,
    "reward.batch_tokens": 80,
    "reward.checkpoint_every": 3,
    "reward.evaluate_every": 2,
    "ppo.epochs": 2,
    "ppo.critic.pretraining_iterations": 2,
    "ppo.sampling.temperature": 0.9,
}

REWARDS = [
    {"reward": "model:reward", "normalise": "running"},
    {"reward": "repetition:1", "weight": 2.0, "normalise": "running"},
]


@dataclass(frozen=True)
class Case:
    """A stage under some settings, and the model that it writes."""

    stage: str
    model: str
    train: Callable[[Settings, Workspace], None]
    changes: Mapping[str, Any] = field(default_factory=dict)

    def settings(self, **changes: Any) -> Settings:
        return tiny_settings({**CHANGES, **self.changes, **changes})

    def outcome(self, workspace: Workspace) -> dict[str, Any]:
        return outcome(workspace, self.stage, self.model)


CASES = {
    "sft": Case("sft", "sft", sft.train),
    "reward": Case("reward", "reward", reward.train),
    "dpo": Case("dpo", "dpo", dpo.train, DPO),
    "process": Case("process", "process", process.train, PROCESS_MODEL),
    "ppo-max": Case("ppo", "policy", loop.train),
    "apa": Case("ppo", "policy", loop.train, APA),
    "rto": Case("ppo", "policy", loop.train, RTO),
    "rloo": Case("ppo", "policy", loop.train, RLOO),
    "grpo": Case("ppo", "policy", loop.train, GRPO),
    "reinforce-pp": Case("ppo", "policy", loop.train, REINFORCE_PP),
    "online-dpo": Case("ppo", "policy", loop.train, online_dpo()),
    "xpo": Case("ppo", "policy", loop.train, {**xpo(), "ppo.checkpoint_every": 1}),
    "etpo": Case("ppo", "policy", loop.train, ETPO),
    "step scores": Case("ppo", "policy", loop.train, PROCESS),
    "aihf": Case("ppo", "policy", loop.train, AIHF),
    "aihf-direct": Case("ppo", "policy", loop.train, AIHF_DIRECT),
    "rewards": Case("ppo", "policy", loop.train, {"ppo.rewards": REWARDS}),
    "sft by adapters": Case("sft", "sft", sft.train, lora("sft", dropout=0.2)),
    "reward by adapters": Case("reward", "reward", reward.train, lora("reward", dropout=0.2)),
    "ppo by adapters": Case("ppo", "policy", loop.train, lora("ppo")),
}
SFT = CASES["sft"]
# the step after which a run is killed; the last checkpoint before is earlier
KILLS = [
    ("sft", 5),
    ("reward", 7),
    ("dpo", 7),
    ("process", 6),
    ("ppo-max", 3),
    # the pairs of two iterations are in the checkpoint
    ("xpo", 2),
    # the target network goes on
    ("etpo", 3),
    ("ppo by adapters", 3),
]
# more of the same kinds
FURTHER_KILLS = [("apa", 0), ("rto", 3), ("rloo", 3), ("etpo", 0), ("aihf", 3), ("step scores", 3)]
FURTHER_KILLS += [("ppo-max", 0), ("apa", 3), ("reward by adapters", 7), ("ppo by adapters", 0)]
# each reward's own history is in the checkpoint; the dropout of adapters goes by the number of the step
FURTHER_KILLS += [("rewards", 3), ("sft by adapters", 5)]
# these keep no state of their own, or no more than a history of scores
FURTHER_KILLS += [("grpo", 3), ("reinforce-pp", 3), ("online-dpo", 3), ("aihf-direct", 3)]


class Outcomes:
    """What each case writes if nothing happens to it; a case is run once, when it is asked for."""

    def __init__(self, prepared: Workspace, folder: Path) -> None:
        self._prepared = prepared
        self._folder = folder
        self._known: dict[str, dict[str, Any]] = {}

    def __getitem__(self, name: str) -> dict[str, Any]:
        if name not in self._known:
            workspace = copy_workspace(self._prepared, self._folder / name)
            CASES[name].train(CASES[name].settings(), workspace)
            self._known[name] = CASES[name].outcome(workspace)
        return self._known[name]


@pytest.fixture(scope="module")
def undisturbed(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    return Outcomes(prepared, tmp_path_factory.mktemp("undisturbed"))


def kill(workspace: Workspace, case: Case, step: int) -> None:
    """Run a worker that is killed when it has logged `step`; then remove outputs, as DVC does."""
    write_settings(workspace, case.settings())
    worker = Worker(case.stage, workspace.root, Harm(step=step))
    assert worker.code() == -9, worker.log()
    assert list(workspace.checkpoints.glob(f"{case.stage}/*/step-*")), worker.log()
    shutil.rmtree(workspace.root / "metrics")


def test_the_cases_are_different_runs(undisturbed: Outcomes) -> None:
    assert undisturbed["ppo-max"] != undisturbed["xpo"] != undisturbed["etpo"]


@pytest.mark.parametrize(
    ("name", "step"),
    [*KILLS, *(pytest.param(*kill, marks=pytest.mark.long) for kill in FURTHER_KILLS)],
)
def test_resumed_equals_uninterrupted(
    workspace: Workspace,
    undisturbed: Outcomes,
    name: str,
    step: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    case = CASES[name]
    kill(workspace, case, step)
    assert half_written(workspace.root) == []
    # settings that do not bear on the stage may change in between
    unrelated = {"report.dialogues": 3, "experiment": "other"}
    with caplog.at_level(logging.INFO, logger="rlhf"):
        case.train(case.settings(**unrelated), workspace)
    assert "resuming from" in caplog.text
    assert case.outcome(workspace) == undisturbed[name]
    assert workspace.unfinished_checkpoints(case.stage) == []


@pytest.mark.parametrize(
    ("name", "step", "changes", "told"),
    [
        ("sft", 5, {"sft.micro_batch_tokens": 16}, "micro_batch_tokens 16"),
        ("ppo-max", 3, {"ppo.micro_batch": 2, "ppo.sampling.batch_size": 3}, "micro_batch 2"),
    ],
)
def test_it_goes_on_in_other_micro_batches(
    workspace: Workspace,
    undisturbed: Outcomes,
    name: str,
    step: int,
    changes: Mapping[str, Any],
    told: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """More processes may need smaller ones: the same numbers but for rounding."""
    case = CASES[name]
    kill(workspace, case, step)
    with caplog.at_level(logging.INFO, logger="rlhf"):
        case.train(case.settings(**changes), workspace)
    assert f"it goes on with 1 process of torch, {told}: the same numbers" in caplog.text
    expected = undisturbed[name][f"{case.stage}.jsonl"]
    for before, row in zip(expected, numbers(workspace.steps(case.stage)), strict=True):
        assert row == pytest.approx(before, rel=1e-3, abs=2e-5), row["step"]


def test_with_the_dropout_of_adapters_micro_batches_matter(prepared: Workspace) -> None:
    """Each draws its own."""

    def keys(dropout: float) -> set[str]:
        sizes = ({"sft.micro_batch_tokens": size} for size in (16, 512))
        adapters = lora("sft", dropout=dropout)
        runs = [
            begin("sft", tiny_settings(adapters | size), prepared, ["sft"], {}) for size in sizes
        ]
        return {run.checkpoints.directory.name for run in runs}

    assert len(keys(0.0)) == 1
    assert len(keys(0.2)) == 2


def test_a_run_killed_twice_still_ends_the_same(
    workspace: Workspace, undisturbed: Outcomes
) -> None:
    for step in (4, 8):
        kill(workspace, SFT, step)
    SFT.train(SFT.settings(), workspace)
    assert SFT.outcome(workspace) == undisturbed["sft"]


def test_a_damaged_checkpoint_costs_time_and_moves_no_number(
    workspace: Workspace, undisturbed: Outcomes, caplog: pytest.LogCaptureFixture
) -> None:
    kill(workspace, SFT, 8)
    before, newest = sorted(workspace.checkpoints.glob("sft/*/step-*"))
    weights = newest / "trainer" / "weights-00000.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with caplog.at_level(logging.INFO, logger="rlhf"):
        SFT.train(SFT.settings(), workspace)
    assert f"{newest} is damaged" in caplog.text and f"resuming from {before}" in caplog.text
    assert SFT.outcome(workspace) == undisturbed["sft"]


def test_a_run_killed_before_its_first_checkpoint_starts_again(
    workspace: Workspace, undisturbed: Outcomes
) -> None:
    """The step log that it leaves, cut off in the middle, is not taken over."""
    workspace.steps("sft").parent.mkdir()
    workspace.steps("sft").write_text('{"step": 0, "validation_loss": 9.0}\n{"step": 1, "tra')
    SFT.train(SFT.settings(), workspace)
    assert SFT.outcome(workspace) == undisturbed["sft"]


@pytest.fixture(scope="module")
def killed(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """An sft run that got as far as step 4; only to be read."""
    workspace = copy_workspace(prepared, tmp_path_factory.mktemp("killed"))
    kill(workspace, SFT, 4)
    return workspace


@pytest.mark.parametrize(
    "change",
    [{"sft.optimizer.learning_rate": 2e-3}, {"seed": 2}, {"data.max_prompt_tokens": 63}],
    ids=lambda change: next(iter(change)),
)
def test_changed_settings_do_not_resume(
    killed: Workspace,
    prepared: Workspace,
    tmp_path: Path,
    change: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    again = copy_workspace(killed, tmp_path / "again")
    fresh = copy_workspace(prepared, tmp_path / "fresh")
    with caplog.at_level(logging.INFO, logger="rlhf"):
        for workspace in (again, fresh):
            SFT.train(SFT.settings(**change), workspace)
    assert "resuming" not in caplog.text
    assert SFT.outcome(again) == SFT.outcome(fresh)


def test_changed_data_do_not_resume(
    killed: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workspace = copy_workspace(killed, tmp_path / "again")
    rows = read_table(workspace, "sft").to_dict("records")
    write_table(workspace.prepared, "sft", rows[::-1])
    with caplog.at_level(logging.INFO, logger="rlhf"):
        SFT.train(SFT.settings(), workspace)
    assert "resuming" not in caplog.text


def test_a_name_that_means_another_class_of_the_same_file_does_not_resume(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def keys() -> list[str]:
        cases = (CASES["apa"], CASES["ppo-max"])
        runs = [begin("ppo", case.settings(), prepared, ["ppo"], {}) for case in cases]
        return [run.checkpoints.directory.name for run in runs]

    apa, ppo_max = keys()
    assert keys() == [apa, ppo_max]
    monkeypatch.setitem(ALGORITHMS, "apa", "rlhf.algorithms.apa:OtherApa")
    changed, unchanged = keys()
    assert changed != apa
    # an algorithm that is not chosen does not matter
    assert unchanged == ppo_max


def test_how_a_server_of_samples_is_run_does_not_matter(prepared: Workspace) -> None:
    """No number depends on its timeouts; on what else it is told to compute some do."""

    def key(**changes: Any) -> str:
        sampling = {"temperature": 0.9, "sampler": "vllm", "vllm": {"python": "python3", **changes}}
        settings = tiny_settings({"ppo.sampling": sampling})
        run = begin("ppo", settings, prepared, ["ppo"], {}, any_value=lengthening.ANY_VALUE)
        return run.checkpoints.directory.name

    assert key() == key(
        python="/elsewhere/bin/python",
        **{"cache_gib": 1.0, "devices": "1", "concurrency": 2},
        **{"start_seconds": 1.0, "timeout_seconds": 1.0, "retries": 0},
    )
    assert key() == key(python=None, address="http://127.0.0.1:8000")
    assert key() != key(arguments=["--quantization", "fp8"])


@pytest.mark.parametrize("name", ["sft", "reward", "dpo", "process"])
def test_the_same_run_twice_gives_the_same_files(
    workspace: Workspace, undisturbed: Outcomes, name: str
) -> None:
    case = CASES[name]
    case.train(case.settings(), workspace)
    assert case.outcome(workspace) == undisturbed[name]
    assert len(workspace.finished_checkpoints(but="")) == 1
