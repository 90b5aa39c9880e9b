"""What must change no number of aihf: micro-batches, padding, a shared trunk; and whole runs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from aihf_rows import aihf, moving_of, phases, sources_of
from given import gradients, step_loss
from neighbours import AIHF
from slow_ppo import roll
from test_on_policy_batches import PartedEngine, assert_same_gradients
from tiny import numbers, same_models, tiny_settings
from torch import nn

from rlhf.algorithms.aihf import RewardBatch
from rlhf.batches.comparisons import Comparisons
from rlhf.settings.training import EngineSettings
from rlhf.training import loop
from rlhf.workspace import Workspace

# -- what must change no number -----------------------------------------------------------------


def test_micro_batches_change_no_gradient_of_the_reward(prepared: Workspace) -> None:
    found = []
    # 1: a comparison needs two rows all the same
    for size, parts in ((1, 10), (2, 10), (4, 5), (8, 3)):
        algorithm = aihf(prepared, {"ppo.micro_batch": size})
        sources = sources_of(prepared, algorithm, roll(algorithm))
        update, _, _ = phases(algorithm, sources)
        assert len(step_loss(update).parts) == parts
        found.append(gradients(algorithm, update))
    for other in found[1:]:
        assert_same_gradients(found[0], other)


def test_padding_changes_no_gradient_of_the_reward(prepared: Workspace) -> None:
    algorithm = aihf(prepared)
    update, _, _ = phases(algorithm, sources_of(prepared, algorithm, roll(algorithm)))
    (batch,) = update.mini_batches
    wide = RewardBatch(padded(batch.demonstrations), padded(batch.pairs))
    plain = gradients(algorithm, update)
    assert_same_gradients(plain, gradients(algorithm, replace(update, mini_batches=[wide])))


def padded(comparisons: Comparisons) -> Comparisons:
    """The same answers with garbage behind them, which no mask shows."""
    batch, pad = comparisons.batch, nn.functional.pad
    wide = replace(
        batch,
        input_ids=pad(batch.input_ids, (0, 3), value=33),
        attention_mask=pad(batch.attention_mask, (0, 3), value=False),
        target_mask=pad(batch.target_mask, (0, 3), value=False),
    )
    return replace(comparisons, batch=wide)


def test_a_reward_that_learns_its_top_alone_shares_the_trunk(prepared: Workspace) -> None:
    changes = {"ppo.trainable_layers": 1}
    parted = PartedEngine(EngineSettings(threads=1))
    sharing, separate = aihf(prepared, changes), aihf(prepared, changes, engine=parted)
    for name, value in moving_of(sharing).named_parameters():
        below = "layers.0." in name or "embed" in name
        assert value.requires_grad is not below
    rollout = roll(sharing)
    assert sharing.with_trunk_states(rollout).batch.trunk_states is not None
    assert separate.with_trunk_states(rollout).batch.trunk_states is None

    found = [phases(each, sources_of(prepared, each, rollout)) for each in (sharing, separate)]
    for left, right in zip(*found, strict=True):
        assert left.metrics == pytest.approx(right.metrics, abs=1e-5)
    for index, (left, right) in enumerate(zip(*found, strict=True)):
        slopes = gradients(sharing, left)
        assert any("layers.1." in name for name in slopes), index
        assert_same_gradients(slopes, gradients(separate, right))
    one, two = (updates[1].mini_batches[0] for updates in found)
    torch.testing.assert_close(one.advantages, two.advantages, atol=1e-5, rtol=1e-5)


# -- whole runs ---------------------------------------------------------------------------------


def test_a_whole_run(workspace: Workspace) -> None:
    reward = directory_bytes(workspace)
    loop.train(tiny_settings({**AIHF, "ppo.iterations": 6, "ppo.aihf.pairs": 16}), workspace)
    warmup, *iterations, final = numbers(workspace.steps("ppo"))
    assert "value_loss" in warmup and not {"policy_loss", "pair_loss"} & warmup.keys()
    assert [row["step"] for row in iterations] == list(range(6))
    told = {
        "moving_reward_gradient_norm",
        "moving_reward_learning_rate",
        "moving_reward",
        "reward",
        "pair_accuracy",
        "demonstration_margin",
        "sample_length",
        "policy_loss",
        "ratio_mean",
        "value_loss",
    }
    for row in iterations:
        assert told <= row.keys()
        assert row["moving_reward_gradient_norm"] > 0
        # the first of the policy's steps has a ratio of 1
        assert row["first_ratio_deviation"] == 0.0
    # nothing had moved yet when the critic learnt alone
    assert warmup["moving_reward"] == pytest.approx(warmup["reward"], abs=1e-5)
    last = iterations[-1]
    assert last["moving_reward"] != pytest.approx(last["reward"], abs=0.01)
    # the reward has learnt from both
    assert last["demonstration_margin"] > iterations[0]["demonstration_margin"] + 0.5
    assert last["pair_loss"] < iterations[0]["pair_loss"]
    assert "validation_objective" in final
    assert not same_models(workspace.model("policy"), workspace.model("sft"))
    # the file of the reward model is as it was
    assert directory_bytes(workspace) == reward


def directory_bytes(workspace: Workspace) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in workspace.model("reward").iterdir()}


def test_micro_batches_change_no_number_of_a_run(workspace: Workspace) -> None:
    runs = []
    for size in (1, 4):
        changes: Mapping[str, Any] = {
            **AIHF,
            "ppo.micro_batch": size,
            "ppo.iterations": 2,
            "ppo.optimizer.epsilon": 1e-4,
            "ppo.critic.optimizer.epsilon": 1e-4,
        }
        loop.train(tiny_settings(changes), workspace)
        runs.append(numbers(workspace.steps("ppo")))
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)
