import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import numbers, outcome, same_models, tiny_settings

from rlhf.algorithms import ALGORITHMS, Material, PpoMax
from rlhf.algorithms.base import Loss
from rlhf.batches.padding import TokenBatch
from rlhf.batches.tables import read_table
from rlhf.core.tally import Tally
from rlhf.models.saving import load_causal_lm
from rlhf.rollout.records import Experience
from rlhf.training import loop
from rlhf.workspace import Workspace


def test_a_whole_run_and_what_it_writes(workspace: Workspace) -> None:
    settings = tiny_settings({"ppo.mini_batch": 8, "ppo.epochs": 2})
    loop.train(settings, workspace)
    *rows, final = numbers(workspace.steps("ppo"))
    assert [row["step"] for row in rows] == [-1, 0, 1, 2, 3]
    watched = {
        "reward",
        "objective",
        "kl",
        "kl_sequence",
        "surprise",
        "entropy",
        "length",
        "finished",
        "distinct_2",
    }
    assert (
        final.keys() == {"step", *(f"validation_{key}" for key in watched)} and final["step"] == 4
    )
    promised = {
        "reward", "reward_std", "reward_normalised", "kl", "kl_sequence", "response_length", "finished", "perplexity",
        "entropy", "policy_loss", "value_loss", "ptx_loss", "ratio_mean", "ratio_max_deviation", "first_ratio_deviation",
        "clip_fraction", "value_clip_fraction", "explained_variance", "advantage_mean", "advantage_std", "return_mean",
        "policy_gradient_norm", "critic_gradient_norm", "policy_learning_rate", "critic_learning_rate",
    }  # fmt: skip
    assert all(promised <= row.keys() for row in rows[1:])
    assert (
        "policy_loss" not in rows[0]
        and "policy_gradient_norm" not in rows[0]
        and "value_loss" in rows[0]
    )
    assert (
        rows[0]["kl"] == rows[1]["kl"] == pytest.approx(0.0, abs=1e-6)
    )  # the policy has not moved yet
    assert all(row["first_ratio_deviation"] < 1e-6 for row in rows[1:])
    assert all(row["ratio_max_deviation"] > 1e-6 for row in rows[1:])  # of the second epoch
    assert all(row["sampler_logprob_gap"] < 1e-5 for row in rows)
    assert [("validation_reward" in row) for row in rows] == [False, True, False, True, False]

    samples = numbers(workspace.samples("ppo"))
    assert [row["step"] for row in samples] == [0] * 4 + [2] * 4 + [4] * 4
    assert len({row["prompt"] for row in samples}) == 4 and samples[0]["prompt"].startswith(
        "user: w"
    )
    for row in (rows[1], rows[3], final):
        own = [sample["reward"] for sample in samples if sample["step"] == row["step"]]
        assert row["validation_reward"] == pytest.approx(sum(own) / 4)
    histograms = json.loads(workspace.details("ppo").read_text())["reward_histograms"]
    assert [(entry["step"], sum(entry["counts"])) for entry in histograms] == [
        (0, 4),
        (2, 4),
        (4, 4),
    ]

    summary = json.loads(workspace.metrics("ppo").read_text())
    assert (summary["reward_first"], summary["reward_last"]) == (
        rows[1]["reward"],
        rows[4]["reward"],
    )
    assert (summary["collapsed"], summary["iterations"]) == (
        False,
        4,
    ) and "collapse_step" in summary
    wanted = {"kl_last", "perplexity_last", "response_length_last", "seconds"}
    assert wanted | {"rollout_tokens_per_second", "update_tokens_per_second"} <= summary.keys()
    before, after = (
        load_causal_lm(workspace.model(name)).state_dict() for name in ("sft", "policy")
    )
    assert any(not torch.equal(before[name], after[name]) for name in before)


def objectives(workspace: Workspace) -> dict[int, float]:
    rows = numbers(workspace.steps("ppo"))
    return {
        row["step"]: row["validation_objective"] for row in rows if "validation_objective" in row
    }


def test_the_policy_of_the_best_look_is_kept(workspace: Workspace, tmp_path: Path) -> None:
    """A rate that wrecks the policy: the best look is the first one, the policy that training started from."""
    changes = {
        "ppo.optimizer.learning_rate": 0.05,
        "ppo.optimizer.warmup_fraction": 0.0,
        "ppo.kl.coefficient": 1.0,
    }
    loop.train(tiny_settings(changes), workspace)
    found = objectives(workspace)
    assert max(found, key=lambda step: found[step]) == 0
    summary = json.loads(workspace.metrics("ppo").read_text())
    assert (summary["kept_step"], summary["kept_objective"]) == (0, found[0])
    assert same_models(workspace.model("policy"), workspace.model("sft"))
    loop.train(tiny_settings(changes | {"ppo.keep": "last"}), workspace)
    summary = json.loads(workspace.metrics("ppo").read_text())
    assert (summary["kept_step"], summary["kept_objective"]) == (4, found[4])
    assert not same_models(workspace.model("policy"), workspace.model("sft"))


def test_the_objective_is_reward_less_the_penalty(workspace: Workspace) -> None:
    loop.train(tiny_settings({"ppo.kl.coefficient": 0.3}), workspace)
    for row in numbers(workspace.steps("ppo")):
        if "validation_objective" in row:
            expected = (
                row["validation_reward"] / 0.5 - 0.3 * row["validation_kl_sequence"]
            )  # the note says 0.5
            assert row["validation_objective"] == pytest.approx(expected, abs=1e-5)


def collapsing(iteration: int) -> Any:
    """Metrics as of a policy that collapses from some iteration on."""
    real = PpoMax.experience

    def experience(self: PpoMax, material: Material) -> Any:
        learnable, metrics = real(self, material)
        self.calls = getattr(self, "calls", -2) + 1  # type: ignore[attr-defined]
        if self.calls >= iteration:  # type: ignore[attr-defined]
            metrics |= {"kl": 9.0, "response_length": 100.0}
        return learnable, metrics

    return experience


@pytest.mark.parametrize(
    ("action", "last", "kept"), [("warn", 8, "best"), ("stop", 4, "last"), ("return", 4, "best")]
)
def test_what_the_alarm_does(
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    action: str,
    last: int,
    kept: str,
) -> None:
    monkeypatch.setattr(PpoMax, "experience", collapsing(3))
    changes = {
        "ppo.iterations": 8,
        "ppo.alarm": {"action": action, "patience": 2},
        "ppo.keep": "last",
        "ppo.samples_every": 1,
    }
    if action == "warn":
        changes["ppo.keep"] = "best"
    loop.train(tiny_settings(changes), workspace)
    steps = [row["step"] for row in numbers(workspace.steps("ppo"))]
    assert steps == [*range(-1, last), *([last, last] if action != "warn" else [last])]
    summary = json.loads(workspace.metrics("ppo").read_text())
    assert (summary["collapsed"], summary["collapse_step"]) == (True, 4)
    told = [record.message for record in caplog.records if "collapse" in record.message]
    assert len(told) == 1 and told[0].startswith(
        "ppo: collapse at iteration 4: response_length 100"
    )
    if kept == "best":
        before = {
            step: value for step, value in objectives(workspace).items() if step < 3
        }  # sound by then
        assert summary["kept_step"] == max(before, key=lambda step: before[step])
    else:
        assert summary["kept_step"] == last


class Recording(PpoMax):
    """PPO-max that notes what the loop gives it."""

    seen: list[tuple[str, int, tuple[int, ...], tuple[int, ...]]] = []  # noqa: RUF012

    def losses(
        self,
        name: str,
        iteration: int,
        batch: Experience,
        pretrain: TokenBatch | None,
        tally: Tally,
    ) -> list[Loss]:
        rows = tuple(batch.batch.input_ids.sum(dim=1).tolist())
        windows = (
            tuple(pretrain.input_ids[:, 0].tolist())
            if pretrain is not None and name == "policy"
            else ()
        )
        self.seen.append((name, iteration, rows, windows))
        return super().losses(name, iteration, batch, pretrain, tally)


def test_the_loop_covers_the_buffer_in_every_epoch(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALGORITHMS, "ppo-max", Recording)
    Recording.seen.clear()
    changes: Mapping[str, Any] = {
        "ppo.mini_batch": 2,
        "ppo.micro_batch": 1,
        "ppo.epochs": 3,
        "ppo.iterations": 2,
    }
    loop.train(tiny_settings(changes), workspace)
    counts = {
        (name, i): [row for row in Recording.seen if row[:2] == (name, i)]
        for name, i, _, _ in Recording.seen
    }
    assert {key: len(value) for key, value in counts.items()} == {
        ("critic", -1): 4, ("policy", 0): 12, ("critic", 0): 12, ("policy", 1): 12, ("critic", 1): 12
    }  # fmt: skip
    orders = set()
    for seen in counts.values():
        epochs = [
            [rows for _, _, rows, _ in seen[start : start + 4]] for start in range(0, len(seen), 4)
        ]
        assert all(sorted(epoch) == sorted(epochs[0]) for epoch in epochs)  # the same mini-batches
        orders |= {tuple(sorted(epochs[0]).index(rows) for rows in epoch) for epoch in epochs}
    assert len(orders) > 3  # in changing order
    first = [ids[0] for ids in read_table(workspace, "pretrain", split="train")["input_ids"]]
    windows = [word for name, _, _, words in Recording.seen if name == "policy" for word in words]
    assert windows == [first[place % 10] for place in range(2 * 24)]  # plain text in turn


def test_the_same_run_twice_gives_the_same_files(workspace: Workspace) -> None:
    outcomes = []
    for seed in (1, 1, 2):
        loop.train(tiny_settings({"seed": seed, "ppo.iterations": 2}), workspace)
        outcomes.append(outcome(workspace, "ppo", "policy"))
    assert outcomes[0] == outcomes[1]
    assert all(outcomes[0][name] != outcomes[2][name] for name in outcomes[0])


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
