"""What must change no number of xpo and online-dpo: ties, micro-batches, padding, processes, a resumed run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from given import gradients, step_loss
from members import each_of_pairs
from neighbours import online_dpo, xpo
from slow_pairs import make_of_pairs, pair_update, pairs_of, tokens_of, two_draws
from slow_ppo import PROMPTS, roll
from torch import Tensor, nn

from rlhf.engine.single import TorchTrainer
from rlhf.engine.state import load_state, save_state
from rlhf.rollout.records import Rollout
from rlhf.workspace import Workspace


def assert_same_slopes(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left and left.keys() == right.keys()
    for name, value in left.items():
        torch.testing.assert_close(value, right[name], atol=2e-6, rtol=1e-4)


# -- ties ---------------------------------------------------------------------------------------


def with_equal_responses(draws: tuple[Rollout, Rollout], rows: list[int]) -> list[Rollout]:
    """The second draw says in some rows what the first has said."""
    first, second = draws
    order = [row if row in rows else row + len(first) for row in range(len(first))]
    both = [*first.responses, *second.responses]
    equal = replace(second, responses=[both[place] for place in order])
    return [first, equal]


def test_pairs_of_weight_0_count_as_if_they_were_not_there(prepared: Workspace) -> None:
    changes = {**xpo(alpha=[0.2]), "ppo.micro_batch": 2}
    algorithm = make_of_pairs(prepared, changes)
    draws = with_equal_responses(two_draws(algorithm), rows=[1, 4, 5])
    update = pair_update(algorithm, draws)
    assert update.metrics["ties"] == pytest.approx(3 / 8)
    (batch,) = update.mini_batches
    counting = batch.select(batch.weights.nonzero().squeeze(1))
    assert (len(batch), len(counting)) == (8, 5)

    whole, part = step_loss(update), step_loss(update, counting)
    # every process runs as many forwards as the others
    assert (len(whole.parts), len(part.parts)) == (8, 5)
    assert float(whole.total.detach()) == pytest.approx(float(part.total.detach()), rel=1e-5)
    assert whole.metrics == pytest.approx(part.metrics, abs=1e-5)


def test_where_no_pair_counts_nothing_is_learnt_and_all_is_logged(prepared: Workspace) -> None:
    algorithm = make_of_pairs(prepared, online_dpo())
    draws = with_equal_responses(two_draws(algorithm), rows=list(range(8)))
    update = pair_update(algorithm, draws)
    assert update.roles == () and not update.mini_batches
    assert update.metrics["ties"] == 1.0 and update.metrics["pair_accuracy"] is None
    assert "reward" in update.metrics and update.signals is not None


def test_a_mini_batch_without_any_that_counts_teaches_nothing(prepared: Workspace) -> None:
    algorithm = make_of_pairs(prepared, xpo(alpha=[0.2]))
    draws = with_equal_responses(two_draws(algorithm), rows=[0, 1])
    update = pair_update(algorithm, draws)
    (batch,) = update.mini_batches
    empty = batch.select((batch.weights == 0).nonzero().squeeze(1))
    assert len(empty) == 2
    assert float(step_loss(update, empty).total.detach()) == 0.0


# -- batches ------------------------------------------------------------------------------------


@each_of_pairs
def test_micro_batches_of_pairs_change_no_gradient(
    prepared: Workspace, member: dict[str, Any]
) -> None:
    """micro_batch counts responses; a pair is never parted."""
    found = []
    for size, parts in ((1, 8), (4, 4), (8, 2)):
        algorithm = make_of_pairs(prepared, {**member, "ppo.micro_batch": size})
        update = pair_update(algorithm, two_draws(algorithm))
        assert len(step_loss(update).parts) == parts
        found.append(gradients(algorithm, update))
    for other in found[1:]:
        assert_same_slopes(found[0], other)


@each_of_pairs
def test_padding_changes_no_gradient_of_pairs(prepared: Workspace, member: dict[str, Any]) -> None:
    algorithm = make_of_pairs(prepared, {**member, "ppo.micro_batch": 8})
    update = pair_update(algorithm, two_draws(algorithm))
    (experience,) = update.mini_batches
    plain = gradients(algorithm, update)

    garbage, batch = (0, 3), experience.batch
    wide = replace(
        experience,
        batch=replace(
            batch,
            input_ids=nn.functional.pad(batch.input_ids, garbage, value=33),
            attention_mask=nn.functional.pad(batch.attention_mask, garbage, value=False),
            target_mask=nn.functional.pad(batch.target_mask, garbage, value=False),
        ),
    )
    padded = algorithm.response_logprobs(wide)
    torch.testing.assert_close(padded, algorithm.response_logprobs(experience))
    assert_same_slopes(plain, gradients(algorithm, replace(update, mini_batches=[wide])))


def test_processes_share_every_mini_batch(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    algorithm = make_of_pairs(prepared, {**xpo(), "ppo.mini_batch": 4})
    draws = two_draws(algorithm)
    pair_update(algorithm, draws)
    pairs = pairs_of(algorithm)
    whole = algorithm.mini_batches(pairs, 7)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(algorithm.engine, "rank", rank)
        monkeypatch.setattr(algorithm.engine, "world_size", 2)
        shares.append(algorithm.mini_batches(pairs, 7))
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [len(part) for part in parts] == [2, 2]
        assert tokens_of(parts) == tokens_of([batch])


def test_the_pairs_of_all_processes_lie_by_their_prompts(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of two processes has every other prompt; both come to the same table as one alone."""
    algorithm = make_of_pairs(prepared, xpo())
    pair_update(algorithm, two_draws(algorithm))
    expected = pairs_of(algorithm)

    gathered: list[Any] = []

    def all_gather(items: list[Any]) -> list[Any]:
        """Of pairs, those of the processes so far: the second has them all."""
        if isinstance(items[0], tuple):
            gathered.extend(items)
            return list(gathered)
        return items

    for rank in range(2):
        process = make_of_pairs(prepared, xpo())
        monkeypatch.setattr(process.engine, "all_gather", all_gather)
        rows = range(len(PROMPTS))[rank::2]
        draws = [roll(process, 1, rows), roll(process, 101, rows, role="reference")]
        pair_update(process, draws)
    found = pairs_of(process)
    assert [pair.prompt for pair in found] == PROMPTS
    # the reference's sums but for rounding
    for one, other in zip(found, expected, strict=True):
        assert one.reference_chosen == pytest.approx(other.reference_chosen, abs=1e-4)
        assert (one.chosen, one.rejected) == (other.chosen, other.rejected)
        assert one.second_is_chosen == other.second_is_chosen


# -- steps and state ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        # (1 + 2 + 3 + 4) rounds x 3 epochs x 2 mini-batches
        (xpo(), 60),
        (xpo(accumulate=False), 24),
        (online_dpo(), 24),
    ],
    ids=["all-so-far", "fresh", "online-dpo"],
)
def test_the_schedule_counts_the_pairs_of_all_iterations(
    prepared: Workspace, changes: dict[str, Any], steps: int
) -> None:
    algorithm = make_of_pairs(
        prepared, {**changes, "ppo.mini_batch": 4, "ppo.epochs": 3, "ppo.iterations": 4}
    )
    trainer = algorithm.models.trainers["policy"]
    assert isinstance(trainer, TorchTrainer) and trainer.total_steps == steps


@each_of_pairs
def test_pairs_survive_an_interruption(
    prepared: Workspace, tmp_path: Path, member: dict[str, Any]
) -> None:
    algorithm = make_of_pairs(prepared, member)
    pair_update(algorithm, two_draws(algorithm, seed=1))
    save_state(tmp_path, "loop", algorithm.state())

    resumed = make_of_pairs(prepared, member)
    resumed.load_state(load_state(tmp_path, "loop"))
    later = two_draws(algorithm, seed=2)
    one, two = (pair_update(each, later, 1).mini_batches for each in (algorithm, resumed))
    for left, right in zip(one, two, strict=True):
        for name in ("reference_logprobs", "second_is_chosen", "weights"):
            assert torch.equal(getattr(left, name), getattr(right, name))
        assert torch.equal(left.batch.input_ids, right.batch.input_ids)
