"""AIHF against a slow reference; what pays, what judges, and what moves."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from aihf_rows import aihf, always, moving_of, phases, sources_of
from given import GivenSources, gradients, step_loss, updates_from
from neighbours import AIHF
from slow_ppo import (
    PROMPTS,
    make,
    mean,
    move,
    normalised_scores,
    roll,
    scalars_of,
    slow_advantages,
    slow_rows,
)
from tiny import EOS, GOOD, tiny_settings

from rlhf.algorithms.aihf import MOVING_REWARD, Aihf
from rlhf.batches.comparisons import Comparisons
from rlhf.engine.single import TorchTrainer
from rlhf.models.heads import ScalarModel, load_scalar_model
from rlhf.rollout.records import Rollout
from rlhf.workspace import Workspace

BETA = 0.25
LINEAR: Mapping[str, Any] = {"ppo.aihf.form": "linear", "ppo.aihf.beta": BETA}
WEIGHED: Mapping[str, Any] = {"ppo.aihf.demonstration_weight": 0.5, "ppo.aihf.pair_weight": 3.0}


@pytest.fixture
def algorithm(prepared: Workspace) -> Aihf:
    return aihf(prepared)


@pytest.fixture
def rollout(algorithm: Aihf) -> Rollout:
    return roll(algorithm)


@pytest.fixture
def sources(prepared: Workspace, algorithm: Aihf, rollout: Rollout) -> GivenSources:
    return sources_of(prepared, algorithm, rollout)


# -- the reward's loss --------------------------------------------------------------------------


@torch.no_grad()
def slow_margins(model: ScalarModel, comparisons: Comparisons) -> list[float]:
    """R(preferred) - R(other), a sequence at a time."""
    batch = comparisons.batch
    ids = [row[keep] for row, keep in zip(batch.input_ids, batch.attention_mask, strict=True)]
    scores = [scalars_of(model, row[None])[-1] for row in ids]
    return [one - other for one, other in zip(scores[::2], scores[1::2], strict=True)]


def logistic(margins: list[float]) -> list[float]:
    return [math.log1p(math.exp(-margin)) for margin in margins]


@pytest.mark.parametrize("form", [{}, LINEAR], ids=["logistic", "linear"])
def test_the_reward_s_loss_equals_the_slow_reference(
    prepared: Workspace, form: Mapping[str, Any]
) -> None:
    algorithm = aihf(prepared, {**form, **WEIGHED})
    sources = sources_of(prepared, algorithm, roll(algorithm))
    update, _, _ = phases(algorithm, sources)
    (batch,) = update.mini_batches
    assert (len(batch.demonstrations), len(batch.pairs)) == (4, 6)
    demonstrations, pairs = (
        slow_margins(moving_of(algorithm), part) for part in (batch.demonstrations, batch.pairs)
    )

    losses = [-margin / BETA for margin in demonstrations] if form else logistic(demonstrations)
    expected = 0.5 * mean(losses) + 3.0 * mean(logistic(pairs))
    loss = step_loss(update)
    # two comparisons in each forward pass of four rows
    assert len(loss.parts) == 2 + 3
    assert float(loss.total.detach()) == pytest.approx(expected, rel=1e-4)
    assert loss.metrics == pytest.approx(
        {
            "demonstration_loss": mean(losses),
            "demonstration_margin": mean(demonstrations),
            "demonstration_accuracy": mean([float(margin > 0) for margin in demonstrations]),
            "pair_loss": mean(logistic(pairs)),
            "pair_margin": mean(pairs),
            "pair_accuracy": mean([float(margin > 0) for margin in pairs]),
        },
        rel=1e-4,
        abs=1e-5,
    )


def test_its_gradient_reaches_the_moving_reward_alone(
    algorithm: Aihf, sources: GivenSources
) -> None:
    update, _, _ = phases(algorithm, sources)
    slopes = gradients(algorithm, update)
    assert any("layers.0." in name for name in slopes) and "head.weight" in slopes
    # where the origin of the scores lies is open
    assert float(slopes["head.bias"]) == pytest.approx(0.0, abs=1e-6)
    for role in ("policy", "critic", "reward", "reference"):
        module = algorithm.models[role]
        assert all(value.grad is None for value in module.parameters())


def test_demonstrations_are_set_against_what_the_policy_says_now(
    prepared: Workspace, algorithm: Aihf, rollout: Rollout
) -> None:
    found = []
    for _ in range(2):
        sources = sources_of(prepared, algorithm, rollout)
        update, _, _ = phases(algorithm, sources)
        batch = update.mini_batches[0].demonstrations.batch
        rows = zip(batch.input_ids, batch.target_mask, strict=True)
        found.append([ids[mask].tolist() for ids, mask in rows])
        move(algorithm.models.language_model("policy"), seed=9, size=0.2)
    before, after = found
    # the table's demonstrations are all alike
    assert before[::2] == after[::2] == [[GOOD, GOOD + 1, GOOD, EOS]] * 4
    assert before[1::2] != after[1::2]


@pytest.mark.parametrize("form", [{}, LINEAR], ids=["logistic", "linear"])
def test_a_sample_that_is_the_demonstration_weighs_nothing(
    prepared: Workspace, form: Mapping[str, Any]
) -> None:
    algorithm = aihf(prepared, form)
    the_same = always(algorithm, [GOOD, GOOD + 1, GOOD, EOS])
    sources = sources_of(prepared, algorithm, roll(algorithm), the_same)
    update, _, _ = phases(algorithm, sources)
    assert update.metrics["demonstration_identical"] == 1
    loss = step_loss(update)
    assert loss.metrics["demonstration_loss"] == loss.metrics["demonstration_margin"] == 0
    assert float(loss.total.detach()) == pytest.approx(loss.metrics["pair_loss"], rel=1e-6)

    # nothing is learnt from it
    only = replace(update, losses=lambda step: update.losses(step)[:2])
    slopes = gradients(algorithm, only)
    assert slopes and all(not value.any() for value in slopes.values())


def test_what_could_be_learnt_by_style_alone_is_told(
    prepared: Workspace, algorithm: Aihf, rollout: Rollout
) -> None:
    sources = sources_of(prepared, algorithm, rollout, always(algorithm, [5] * 9))
    update, _, _ = phases(algorithm, sources)
    assert update.metrics == {
        "demonstration_length": 4,
        "demonstration_finished": 1,
        "demonstration_cut": 0,
        "demonstration_identical": 0,
        "sample_length": 9,
        "sample_finished": 0,
    }


def test_evidence_of_a_refused_step_are_the_tokens(algorithm: Aihf, sources: GivenSources) -> None:
    update, _, _ = phases(algorithm, sources)
    (batch,) = update.mini_batches
    evidence = batch.evidence()
    assert evidence["demonstrations"] == batch.demonstrations.batch.input_ids.tolist()
    assert evidence["pairs"] == batch.pairs.batch.input_ids.tolist()


# -- what pays and what judges ------------------------------------------------------------------


def test_the_policy_is_paid_by_the_reward_as_its_update_left_it(
    prepared: Workspace, algorithm: Aihf, rollout: Rollout, sources: GivenSources
) -> None:
    """Advantages one response at a time, from the scores after the reward has learnt."""
    updates = algorithm.updates(sources, 0)
    assert next(updates).roles == (MOVING_REWARD,)
    # it learns
    move(moving_of(algorithm), seed=11)
    policy = updates.send({})
    (experience,) = policy.mini_batches

    judged = slow_rows(prepared, algorithm, rollout)
    paid = moved_scores(algorithm, rollout)
    moved = [replace(row, score=score) for row, score in zip(judged, paid, strict=True)]
    assert [row.score for row in moved] != pytest.approx([row.score for row in judged], abs=0.02)
    scores = normalised_scores(moved)
    for row, score, found in zip(moved, scores, experience.advantages, strict=True):
        expected = slow_advantages(row, score, eta=0.05)
        assert found[: len(expected)].tolist() == pytest.approx(expected, abs=1e-4)

    # each is told by its own name
    assert policy.metrics["moving_reward"] == pytest.approx(
        mean([row.score for row in moved]), abs=1e-4
    )
    assert policy.metrics["reward"] == pytest.approx(mean([row.score for row in judged]), abs=1e-4)


@torch.no_grad()
def moved_scores(algorithm: Aihf, rollout: Rollout) -> list[float]:
    rows = zip(rollout.prompts.ids, rollout.responses, strict=True)
    ids = [torch.tensor([[*prompt, *response]]) for prompt, response in rows]
    return [scalars_of(moving_of(algorithm), row)[-1] for row in ids]


def test_the_history_of_scores_begins_anew_where_the_reward_has_moved(
    prepared: Workspace, algorithm: Aihf, rollout: Rollout, sources: GivenSources
) -> None:
    # while the critic learns alone the reward stands still, and the history grows
    for iteration in (-2, -1):
        (critic,) = updates_from(algorithm, sources, iteration)
        assert critic.roles == ("critic",)
    history = algorithm.state()["history"]
    assert history["count"] == 2 * len(PROMPTS)

    for iteration in (0, 1):
        move(moving_of(algorithm), seed=20 + iteration)
        phases(algorithm, sources, iteration)
        history = algorithm.state()["history"]
        assert history["count"] == len(PROMPTS)
        assert history["mean"] == pytest.approx(mean(moved_scores(algorithm, rollout)), abs=1e-4)


def test_a_validation_does_not_move_with_the_reward(
    prepared: Workspace, algorithm: Aihf, rollout: Rollout
) -> None:
    before = algorithm.validate(rollout)
    move(moving_of(algorithm), seed=13, size=0.2)
    after = algorithm.validate(rollout)
    assert torch.equal(before.scores, after.scores)
    assert torch.equal(before.objective, after.objective)
    # it is PPO-max's: by the model as it lies
    ppo_max = make(prepared, {}).validate(rollout)
    torch.testing.assert_close(ppo_max.scores, after.scores)
    torch.testing.assert_close(ppo_max.objective, after.objective)
    lies = load_scalar_model(prepared.model("reward"))
    torch.testing.assert_close(algorithm.models["reward"].state_dict(), lies.state_dict())


def test_a_validation_tells_how_the_moving_reward_ranks_pairs_held_out(
    prepared: Workspace, algorithm: Aihf, rollout: Rollout
) -> None:
    found = []
    for seed in (13, 14, 15):
        move(moving_of(algorithm), seed=seed, size=0.2)
        margins = slow_margins(moving_of(algorithm), algorithm.held_out)
        told = algorithm.validate(rollout).metrics["pair_accuracy"]
        assert told.tolist() == [float(margin > 0) for margin in margins]
        found.append(told.tolist())
    # ppo.validation_prompts of them
    assert len(found[0]) == 4 and len(set(map(tuple, found))) > 1

    algorithm.held_out = replace(algorithm.held_out, weights=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    told = algorithm.validate(rollout).metrics["pair_accuracy"]
    assert told.tolist() == [found[-1][place] for place in (0, 2, 3)]


def test_the_moving_reward_starts_as_the_other_lies(prepared: Workspace) -> None:
    algorithm = make(prepared, AIHF)
    start = load_scalar_model(prepared.model("reward")).state_dict()
    torch.testing.assert_close(algorithm.models[MOVING_REWARD].state_dict(), start)


def test_it_steps_once_an_epoch_of_an_iteration(prepared: Workspace) -> None:
    algorithm = aihf(prepared, {"ppo.aihf.reward_epochs": 3})
    update, policy, _ = phases(algorithm, sources_of(prepared, algorithm, roll(algorithm)))
    assert (len(update.mini_batches), update.epochs, policy.epochs) == (1, 3, 1)
    trainer = algorithm.models.trainers[MOVING_REWARD]
    # over four iterations
    assert isinstance(trainer, TorchTrainer) and trainer.total_steps == 12


def test_what_it_reads() -> None:
    inputs = Aihf.inputs(tiny_settings({**AIHF, "ppo.critic.initial": "sft"}))
    assert inputs.tables == ("prompts", "sft", "preferences")
    assert inputs.models == ("sft", "reward")
