"""xpo and online-dpo against a slow reference: the loss, the draws, and which pairs are learnt from."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from given import step_loss
from members import each_of_pairs
from neighbours import online_dpo, xpo
from slow_pairs import (
    GivenDraws,
    SlowPairLoss,
    log_ratio,
    make_of_pairs,
    pair_update,
    tokens_of,
    two_draws,
)
from slow_ppo import flat, mean, move, roll, slow_rows

from rlhf.workspace import Workspace

# -- the loss -----------------------------------------------------------------------------------


@pytest.mark.parametrize("moved", [False, True], ids=["first-step", "later-step"])
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
@pytest.mark.parametrize("second", ["reference", "policy"])
def test_the_loss_of_xpo_equals_the_slow_reference(
    prepared: Workspace, second: str, loss: str, moved: bool
) -> None:
    changes = xpo(beta=0.3, alpha=[0.2], second=second, loss=loss)
    algorithm = make_of_pairs(prepared, changes)
    draws = two_draws(algorithm)
    # padding is involved
    assert len({len(response) for draw in draws for response in draw.responses}) > 1
    update = pair_update(algorithm, draws)
    if moved:
        move(algorithm.models.language_model("policy"), seed=6)

    slow = SlowPairLoss(beta=0.3, alpha=0.2, loss=loss, second=second)
    rows = [slow_rows(prepared, algorithm, draw) for draw in draws]
    found = step_loss(update)
    # micro-batches of four responses
    assert len(found.parts) == 4
    expected = mean([slow(one, other) for one, other in zip(*rows, strict=True)])
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-4)

    # both rankings occur, so that the sides are told apart
    wins = [one.score > other.score for one, other in zip(*rows, strict=True)]
    assert len(set(wins)) == 2
    metrics = found.metrics
    assert metrics["policy_loss"] == pytest.approx(expected, rel=1e-4)
    plain = replace(slow, alpha=0.0)
    expected = mean([plain(one, other) for one, other in zip(*rows, strict=True)])
    assert metrics["preference_loss"] == pytest.approx(expected, rel=1e-4)
    assert metrics["policy_loss"] - metrics["preference_loss"] == pytest.approx(
        metrics["exploration_loss"], abs=1e-4
    )


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_the_loss_of_online_dpo_equals_the_slow_reference(prepared: Workspace, loss: str) -> None:
    algorithm = make_of_pairs(prepared, online_dpo(beta=0.3, loss=loss))
    draws = two_draws(algorithm)
    update = pair_update(algorithm, draws)
    move(algorithm.models.language_model("policy"), seed=6)
    slow = SlowPairLoss(beta=0.3, loss=loss)
    rows = [slow_rows(prepared, algorithm, draw) for draw in draws]
    found = step_loss(update)
    expected = mean([slow(one, other) for one, other in zip(*rows, strict=True)])
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-4)
    assert "exploration_loss" not in found.metrics

    margins = []
    for one, other in zip(*rows, strict=True):
        lead = 0.3 * (log_ratio(one) - log_ratio(other))
        margins.append(lead if one.score > other.score else -lead)
    assert found.metrics["implicit_margin"] == pytest.approx(mean(margins), abs=1e-4)
    chosen, rejected = found.metrics["chosen_log_ratio"], found.metrics["rejected_log_ratio"]
    assert 0.3 * (chosen - rejected) == pytest.approx(mean(margins), abs=1e-4)


def test_exploration_makes_the_second_response_less_likely(prepared: Workspace) -> None:
    """The sign: a step down the loss lowers log pi of the reference's responses."""
    algorithm = make_of_pairs(prepared, xpo(alpha=[100.0]))
    draws = two_draws(algorithm)
    update = pair_update(algorithm, draws)
    before = algorithm.score(draws[1]).logprobs.sum()
    step_loss(update).total.backward()
    with torch.no_grad():
        for value in algorithm.models.language_model("policy").parameters():
            value -= 1e-6 * value.grad
    assert float(algorithm.score(draws[1]).logprobs.sum()) < float(before) - 1e-3


def test_alpha_goes_by_the_iteration(prepared: Workspace) -> None:
    algorithm = make_of_pairs(prepared, xpo(alpha=[0.5, 0.25, 0.0], accumulate=False))
    draws = two_draws(algorithm)
    updates = [pair_update(algorithm, draws, iteration) for iteration in range(4)]
    assert [update.metrics["alpha"] for update in updates] == [0.5, 0.25, 0.0, 0.0]
    explored = [step_loss(update).metrics["exploration_loss"] for update in updates]
    assert explored == pytest.approx([explored[0], explored[0] / 2, 0.0, 0.0])
    assert explored[0] < 0
    assert "alpha" not in pair_update(make_of_pairs(prepared, online_dpo()), draws).metrics


# -- draws and pairs ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "roles"),
    [
        (xpo(), ["policy", "reference"]),
        (xpo(second="policy"), ["policy", "policy"]),
        (online_dpo(), ["policy", "policy"]),
    ],
    ids=["xpo", "xpo-of-policy", "online-dpo"],
)
def test_who_is_asked_for_responses(
    prepared: Workspace, changes: dict[str, Any], roles: list[str]
) -> None:
    algorithm = make_of_pairs(prepared, changes)
    sources = GivenDraws(two_draws(algorithm))
    next(algorithm.updates(sources, 0))
    assert sources.roles == roles


def test_an_iteration_learns_from_all_pairs_so_far(prepared: Workspace) -> None:
    algorithm = make_of_pairs(prepared, {**xpo(), "ppo.mini_batch": 4})
    updates = []
    for iteration in range(3):
        draws = two_draws(algorithm, seed=iteration)
        updates.append(pair_update(algorithm, draws, iteration))
    counts = [update.metrics["pairs"] for update in updates]
    assert counts == [8, 16, 24]
    assert [len(update.mini_batches) for update in updates] == [2, 4, 6]
    one, two, three = (tokens_of(update.mini_batches) for update in updates)
    # each pair once
    assert len(set(three)) == 24
    assert set(one) < set(two) < set(three)
    # old ones and new ones mixed, in an order of the iteration's own
    first_of_three = tokens_of(updates[2].mini_batches[:1])
    assert 0 < len(set(first_of_three) & set(two)) < 4


@pytest.mark.parametrize("changes", [online_dpo(), xpo(accumulate=False)], ids=["dpo", "xpo"])
def test_or_from_its_own_pairs_alone(prepared: Workspace, changes: dict[str, Any]) -> None:
    algorithm = make_of_pairs(prepared, changes)
    found = []
    for iteration in range(2):
        update = pair_update(algorithm, two_draws(algorithm, seed=iteration), iteration)
        assert update.metrics["pairs"] == 8
        found.append(set(tokens_of(update.mini_batches)))
    assert not found[0] & found[1]


def test_the_reference_s_sums_are_kept_with_a_pair(prepared: Workspace) -> None:
    algorithm = make_of_pairs(prepared, xpo())
    draws = two_draws(algorithm)
    (batch,) = pair_update(algorithm, draws).mini_batches
    rows = flat(
        [
            [sum(one.reference), sum(other.reference)]
            for one, other in zip(
                *(slow_rows(prepared, algorithm, draw) for draw in draws), strict=True
            )
        ]
    )
    found = flat(batch.reference_logprobs.tolist())
    assert sorted(found) == pytest.approx(sorted(rows), abs=1e-4)


@each_of_pairs
def test_what_two_draws_are_described_by(prepared: Workspace, member: dict[str, Any]) -> None:
    algorithm = make_of_pairs(prepared, member)
    draws = two_draws(algorithm)
    metrics = pair_update(algorithm, draws).metrics
    first, second = (slow_rows(prepared, algorithm, draw) for draw in draws)
    scores, others = ([row.score for row in rows] for rows in (first, second))
    assert metrics["reward"] == pytest.approx(mean(scores), abs=1e-5)
    assert metrics["reward_second"] == pytest.approx(mean(others), abs=1e-5)
    assert metrics["reward_margin"] == pytest.approx(mean(scores) - mean(others), abs=1e-5)
    assert metrics["kl"] == pytest.approx(mean(flat([row.log_ratios for row in first])), abs=1e-5)
    assert metrics["entropy"] == pytest.approx(
        mean(flat([row.entropies for row in first])), abs=1e-5
    )
    agrees = [
        (one.score > other.score) == (log_ratio(one) > log_ratio(other))
        for one, other in zip(first, second, strict=True)
    ]
    assert metrics["pair_accuracy"] == pytest.approx(mean([float(right) for right in agrees]))
    assert metrics["ties"] == 0.0


@each_of_pairs
def test_the_best_policy_is_that_of_the_highest_reward_less_beta_kl(
    prepared: Workspace, member: dict[str, Any]
) -> None:
    algorithm = make_of_pairs(prepared, member)
    validation = algorithm.validate(roll(algorithm))
    expected = validation.scores / 0.5 - 0.1 * validation.metrics["kl_sequence"]
    torch.testing.assert_close(validation.objective, expected)
    # the alarm's own signals
    update = pair_update(algorithm, two_draws(algorithm))
    assert update.signals == validation.signals
