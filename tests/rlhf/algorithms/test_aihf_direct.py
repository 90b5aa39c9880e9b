"""AIHF without a reward model against a slow reference; it samples nothing to learn from."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from given import GivenSources, gradients, step_loss, updates_from
from neighbours import AIHF_DIRECT
from slow_ppo import make_scored, mean, roll
from test_on_policy_batches import assert_same_gradients
from tiny import EOS, GOOD, numbers, same_models, tiny_settings
from torch import nn

from rlhf.algorithms.aihf_direct import AihfDirect, DirectBatch
from rlhf.algorithms.base import Update
from rlhf.batches.padding import TokenBatch
from rlhf.batches.tables import read_rows_of
from rlhf.engine.single import TorchTrainer
from rlhf.models.saving import load_causal_lm
from rlhf.training import loop
from rlhf.workspace import Workspace

BETA = 0.3
WEIGHED: Mapping[str, Any] = {
    "ppo.aihf_direct.beta": BETA,
    "ppo.aihf_direct.demonstration_weight": 0.5,
    "ppo.aihf_direct.pair_weight": 3.0,
}


def direct(workspace: Workspace, changes: Mapping[str, Any] | None = None) -> AihfDirect:
    """The algorithm; its policy has moved away from the reference."""
    algorithm = make_scored(workspace, {**AIHF_DIRECT, **(changes or {})})
    assert isinstance(algorithm, AihfDirect)
    return algorithm


def update_of(
    workspace: Workspace, algorithm: AihfDirect, iteration: int = 0
) -> Update[DirectBatch]:
    """Its one update; sources that have tables and nothing else."""
    tables = {name: read_rows_of(workspace, name, "train") for name in ("sft", "preferences")}
    sources = GivenSources(roll(algorithm), tables=tables)
    (update,) = updates_from(algorithm, sources, iteration)
    assert update.roles == ("policy",)
    return update


@torch.no_grad()
def slow_logprob(model: torch.nn.Module, ids: list[int], start: int) -> float:
    """log p of an answer that begins at `start`, token by token, at temperature 1."""
    logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(1)
    return sum(float(logprobs[place - 1, ids[place]]) for place in range(start, len(ids)))


def rows_of(batch: Any) -> list[tuple[list[int], int]]:
    """The tokens of each row, and where its answer begins."""
    rows = []
    for ids, keep, target in zip(
        batch.input_ids, batch.attention_mask, batch.target_mask, strict=True
    ):
        rows.append((ids[keep].tolist(), target.tolist().index(True)))
    return rows


def test_the_loss_equals_the_slow_reference(prepared: Workspace) -> None:
    algorithm = direct(prepared, WEIGHED)
    update = update_of(prepared, algorithm)
    (batch,) = update.mini_batches
    policy = algorithm.models.language_model("policy")
    reference = load_causal_lm(prepared.model("sft"))

    nll = [-slow_logprob(policy, *row) for row in rows_of(batch.demonstrations)]
    rewards = []
    for row in rows_of(batch.pairs.batch):
        rewards.append(BETA * (slow_logprob(policy, *row) - slow_logprob(reference, *row)))
    margins = [chosen - other for chosen, other in zip(rewards[::2], rewards[1::2], strict=True)]
    assert (len(nll), len(margins)) == (4, 6)
    dpo = [math.log1p(math.exp(-margin)) for margin in margins]

    loss = step_loss(update)
    assert float(loss.total.detach()) == pytest.approx(0.5 * mean(nll) + 3 * mean(dpo), rel=1e-4)
    accuracy = mean([float(margin > 0) for margin in margins])
    assert loss.metrics == pytest.approx(
        {
            "demonstration_nll": mean(nll),
            "pair_loss": mean(dpo),
            "pair_margin": mean(margins),
            "pair_accuracy": accuracy,
        },
        rel=1e-4,
        abs=1e-5,
    )


def test_micro_batches_change_no_gradient(prepared: Workspace) -> None:
    found = []
    # demonstrations, and pairs of two rows each
    for size, parts in ((1, 4 + 6), (2, 2 + 6), (4, 1 + 3), (8, 1 + 2)):
        algorithm = direct(prepared, {"ppo.micro_batch": size})
        update = update_of(prepared, algorithm)
        assert len(step_loss(update).parts) == parts
        found.append(gradients(algorithm, update))
    for other in found[1:]:
        assert_same_gradients(found[0], other)


def test_padding_changes_no_gradient(prepared: Workspace) -> None:
    algorithm = direct(prepared)
    update = update_of(prepared, algorithm)
    (batch,) = update.mini_batches
    pairs = replace(batch.pairs, batch=padded(batch.pairs.batch))
    wide = replace(batch, demonstrations=padded(batch.demonstrations), pairs=pairs)
    plain = gradients(algorithm, update)
    assert_same_gradients(plain, gradients(algorithm, replace(update, mini_batches=[wide])))


def padded(batch: TokenBatch) -> TokenBatch:
    """The same answers with garbage behind them, which no mask shows."""
    return replace(
        batch,
        input_ids=nn.functional.pad(batch.input_ids, (0, 3), value=33),
        attention_mask=nn.functional.pad(batch.attention_mask, (0, 3), value=False),
        target_mask=nn.functional.pad(batch.target_mask, (0, 3), value=False),
    )


def test_demonstrations_are_told(prepared: Workspace) -> None:
    algorithm = direct(prepared, {"ppo.max_response_tokens": 3})
    update = update_of(prepared, algorithm)
    assert update.metrics == {
        "demonstration_length": 3,
        "demonstration_finished": 0,
        "demonstration_cut": 1,
    }
    (batch,) = update.mini_batches
    answers = [ids[start:] for ids, start in rows_of(batch.demonstrations)]
    assert answers == [[GOOD, GOOD + 1, GOOD]] * 4
    # pairs are whole
    assert all(ids[-1] == EOS for ids, _ in rows_of(batch.pairs.batch))
    assert batch.evidence()["pairs"] == batch.pairs.batch.input_ids.tolist()


def test_an_iteration_is_a_step_an_epoch(prepared: Workspace) -> None:
    algorithm = direct(prepared, {"ppo.epochs": 3})
    update = update_of(prepared, algorithm)
    assert (len(update.mini_batches), update.epochs) == (1, 3)
    trainer = algorithm.models.trainers["policy"]
    # over four iterations
    assert isinstance(trainer, TorchTrainer) and trainer.total_steps == 12


def test_no_model_is_there_but_policy_reference_and_judge(prepared: Workspace) -> None:
    algorithm = direct(prepared)
    assert list(algorithm.models.trainers) == ["policy"]
    inputs = AihfDirect.inputs(tiny_settings(AIHF_DIRECT))
    assert inputs.tables == ("prompts", "sft", "preferences")
    assert inputs.models == ("sft", "reward")
    assert algorithm.state() == {}


def test_a_whole_run(workspace: Workspace) -> None:
    changes: Mapping[str, Any] = {
        **AIHF_DIRECT,
        "ppo.iterations": 8,
        "ppo.epochs": 2,
        "ppo.optimizer.learning_rate": 1e-3,
        "ppo.aihf_direct.pairs": 16,
    }
    loop.train(tiny_settings(changes), workspace)
    *iterations, final = numbers(workspace.steps("ppo"))
    assert [row["step"] for row in iterations] == list(range(8))
    # nothing is drawn, and nothing but the policy learns
    for row in iterations:
        assert not {"tokens", "reward", "value_loss", "kl"} & row.keys()
    first, last = iterations[0], iterations[-1]
    assert last["demonstration_nll"] < first["demonstration_nll"] - 3
    assert last["pair_loss"] < first["pair_loss"]
    assert {"validation_reward", "validation_objective"} <= final.keys()
    assert not same_models(workspace.model("policy"), workspace.model("sft"))
