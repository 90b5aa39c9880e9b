"""What must change no number: a shared trunk, micro-batches, padding, the number of processes."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from given import alone, gradients, step_loss, update_of, updates_of
from members import PPO_MAX, each_learner, each_member
from slow_ppo import make, roll
from torch import Tensor, nn

from rlhf.algorithms.base import Validation
from rlhf.core.tally import Tally
from rlhf.engine.single import TorchEngine
from rlhf.rollout.records import Rollout
from rlhf.settings.training import EngineSettings
from rlhf.workspace import Workspace

FIELDS = ("old_logprobs", "reference_logprobs", "old_values", "advantages", "returns")


def assert_same_gradients(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left and left.keys() == right.keys()
    # a loss of whole responses has the gradients of all their tokens added up
    size = max(1.0, *(float(value.abs().max()) for value in left.values()))
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], atol=2e-6 * size, rtol=1e-4)


# -- the trunk ----------------------------------------------------------------------------------


class PartedEngine(TorchEngine):
    """One process that says its models are never whole, so that no trunk is shared."""

    whole_weights = False


@each_member
def test_a_shared_trunk_changes_no_number(prepared: Workspace, member: dict[str, Any]) -> None:
    """Where only the top layers differ, what is below them is run once, with the same results."""
    changes = {**member, "ppo.trainable_layers": 1}
    sharing = make(prepared, changes)
    separate = make(prepared, changes, PartedEngine(EngineSettings(threads=1)))
    rollout = roll(sharing)
    assert sharing.with_trunk_states(rollout).batch.trunk_states is not None
    assert separate.with_trunk_states(rollout).batch.trunk_states is None

    one, two = (updates_of(algorithm, rollout) for algorithm in (sharing, separate))
    (first,), (second,) = one[0].mini_batches, two[0].mini_batches
    for name in FIELDS:
        left, right = getattr(first, name), getattr(second, name)
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)
    assert one[0].metrics == pytest.approx(two[0].metrics, abs=1e-5)
    for left, right in zip(one, two, strict=True):
        for role in left.roles:
            slopes = gradients(sharing, left, role)
            assert any("layers.1." in name for name in slopes)
            assert_same_gradients(slopes, gradients(separate, right, role))

    left, right = sharing.validate(rollout), separate.validate(rollout)
    torch.testing.assert_close(left.scores, right.scores)
    torch.testing.assert_close(left.objective, right.objective, atol=1e-5, rtol=1e-5)


def test_no_trunk_is_shared_where_the_lower_layers_differ_or_learn(prepared: Workspace) -> None:
    other_origin = {"ppo.initial": "base", "ppo.trainable_layers": 1}
    # both of the model's two layers learn: nothing but the embeddings is below
    all_blocks = {"ppo.trainable_layers": 2}
    for changes in (PPO_MAX, other_origin, all_blocks):
        algorithm = make(prepared, changes)
        rollout = roll(algorithm)
        assert algorithm.with_trunk_states(rollout).batch.trunk_states is None


# -- batches ------------------------------------------------------------------------------------


@each_learner
def test_micro_batches_change_no_gradient(
    prepared: Workspace, member: dict[str, Any], role: str
) -> None:
    """One at a time there is no padding, all at once every row is as wide as the longest."""
    found = []
    for size in (1, 2, 4, 8):
        algorithm = make(prepared, {**member, "ppo.micro_batch": size})
        update = update_of(algorithm, role, roll(algorithm))
        assert len(step_loss(update, role=role).parts) == 8 // size
        found.append(gradients(algorithm, update, role))
    for other in found[1:]:
        assert_same_gradients(found[0], other)


def padded(rollout: Rollout, columns: int) -> Rollout:
    """The same responses with garbage behind them, which no mask shows."""
    garbage = (0, columns)
    batch, pad = rollout.batch, nn.functional.pad
    return replace(
        rollout,
        batch=replace(
            batch,
            input_ids=pad(batch.input_ids, garbage, value=33),
            attention_mask=pad(batch.attention_mask, garbage, value=False),
            target_mask=pad(batch.target_mask, garbage, value=False),
        ),
        response_mask=pad(rollout.response_mask, garbage, value=False),
        sampler_logprobs=pad(rollout.sampler_logprobs, garbage, value=9.0),
    )


@each_member
def test_padding_changes_nothing(prepared: Workspace, member: dict[str, Any]) -> None:
    found = []
    for columns in (0, 3):
        algorithm = make(prepared, member)
        rollout = padded(roll(algorithm), columns)
        updates = updates_of(algorithm, rollout)
        slopes = [gradients(algorithm, update, role) for update in updates for role in update.roles]
        (batch,) = updates[0].mini_batches
        found.append((batch, updates[0].metrics, slopes, algorithm.validate(rollout)))
    (plain, metrics, slopes, validation), (wide, wide_metrics, wide_slopes, wide_validation) = found
    for name in FIELDS:
        torch.testing.assert_close(getattr(wide, name), getattr(plain, name))
    assert wide_metrics == pytest.approx(metrics, abs=1e-6)
    for left, right in zip(slopes, wide_slopes, strict=True):
        assert_same_gradients(left, right)
    torch.testing.assert_close(wide_validation.objective, validation.objective)


# -- processes ----------------------------------------------------------------------------------


def tally_of(validation: Validation) -> Tally:
    tally = Tally()
    tally.add(score=validation.scores, objective=validation.objective, **validation.metrics)
    return tally


@pytest.mark.parametrize("role", ["policy", "critic"])
def test_every_process_of_a_validation_runs_as_many_forwards(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    """Five prompts over two processes, one at a time.

    The first has three forwards; the second two, and one that only stands in.
    """
    algorithm = make(prepared, {"ppo.micro_batch": 1})
    shares = [roll(algorithm, rows=range(5)[rank::2]) for rank in range(2)]
    all_rows = roll(algorithm, rows=range(5))
    forwards: list[list[list[int]]] = []

    def count(module: nn.Module, positional: object, named: dict[str, Any]) -> None:
        forwards.append(named["input_ids"].tolist())

    backbone = algorithm.models.language_model(role).base_model
    backbone.register_forward_pre_hook(count, with_kwargs=True)

    expected = algorithm.validate(all_rows)
    assert len(forwards) == 5
    found = []
    for share in shares:
        forwards.clear()
        # how many micro-batches each of the two processes has
        monkeypatch.setattr(algorithm.engine, "all_gather", lambda items: [3, 2])
        found.append(algorithm.validate(share))
        assert len(forwards) == 3
    # the stand-in of the second process, which counts for nothing:
    assert forwards[2] == forwards[0] != forwards[1]

    first, second = found
    assert (len(first.scores), len(second.scores)) == (3, 2)
    rewards = torch.cat([first.scores, second.scores])
    torch.testing.assert_close(rewards, expected.scores[[0, 2, 4, 1, 3]])
    both = tally_of(first)
    both.absorb(tally_of(second))
    assert both.means(alone) == pytest.approx(tally_of(expected).means(alone), abs=1e-5)
