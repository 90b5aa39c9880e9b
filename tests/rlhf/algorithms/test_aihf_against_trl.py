"""What AIHF learns from pairs and demonstrations against the losses of TRL 1.12.0.

TRL has no AIHF. Its RewardTrainer has the pair term of the moving reward, its DPOTrainer both terms
of the direct form. They are asked for the loss of the very tokens and models that ours has.

Where we differ on purpose; a test below shows each line marked *:

| quantity                           | TRL                          | here                               |
|------------------------------------|------------------------------|------------------------------------|
| -log p of a demonstration *        | a mean over all tokens (sft) | a sum over its tokens, as log pi_R |
| demonstrations beside DPO's pairs  | the chosen answers           | a table of their own               |
| answers of a pair that are alike * | log 2 in the mean            | 0 in the mean                      |
"""

import copy
import importlib
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from aihf_rows import sources_of
from given import gradients, step_loss, updates_from
from neighbours import AIHF, AIHF_DIRECT
from slow_ppo import make, make_scored, move, roll
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification

from rlhf.algorithms.aihf import MOVING_REWARD
from rlhf.algorithms.base import Update
from rlhf.batches.comparisons import Comparisons
from rlhf.models.heads import ScalarModel
from rlhf.models.saving import load_causal_lm
from rlhf.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

BETA = 0.3


class Alone(SimpleNamespace):
    """An accelerator of one process."""

    device = torch.device("cpu")

    def gather(self, value: Tensor) -> Tensor:
        return value

    gather_for_metrics = gather


def trainer(name: str, model: nn.Module, **attributes: Any) -> Any:
    """A trainer of TRL with nothing but what its loss asks for."""
    kind = getattr(importlib.import_module("trl"), name)
    made = kind.__new__(kind)
    made.model = model
    made.accelerator = Alone()
    made._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    made._total_train_tokens = 0
    for key, value in attributes.items():
        setattr(made, key, value)
    return made


def chosen_then_rejected(comparisons: Comparisons) -> dict[str, Tensor]:
    """A batch as TRL's collators make it."""
    batch = comparisons.batch
    rows = torch.arange(len(batch)).view(-1, 2).T.flatten()
    return {
        "input_ids": batch.input_ids[rows],
        "attention_mask": batch.attention_mask[rows].long(),
        "completion_mask": batch.target_mask[rows].long(),
    }


# -- pairs of the moving reward -----------------------------------------------------------------


def classifier(model: ScalarModel) -> LlamaForSequenceClassification:
    peer = LlamaForSequenceClassification(model.lm.config)
    peer.model = copy.deepcopy(model.lm.base_model)
    peer.score = nn.Linear(model.lm.config.hidden_size, 1)
    peer.score.load_state_dict(model.head.state_dict())
    return peer.eval()


def test_the_pair_loss_of_the_moving_reward_agrees(prepared: Workspace) -> None:
    no_demonstrations = {"ppo.aihf.demonstration_weight": 0.0}
    algorithm = make(prepared, {**AIHF, **no_demonstrations})
    moving = algorithm.models[MOVING_REWARD]
    assert isinstance(moving, ScalarModel)
    move(moving, seed=7)
    update, *_ = updates_from(algorithm, sources_of(prepared, algorithm, roll(algorithm)))
    (batch,) = update.mini_batches

    peer = classifier(moving)
    theirs = trainer("RewardTrainer", peer, args=SimpleNamespace(center_rewards_coefficient=None))
    inputs = chosen_then_rejected(batch.pairs)
    del inputs["completion_mask"]
    loss = theirs.compute_loss(peer, inputs)
    ours = step_loss(update)
    assert float(ours.total.detach()) == pytest.approx(float(loss.detach()), abs=1e-5)
    assert ours.metrics["pair_accuracy"] == pytest.approx(theirs._metrics["eval"]["accuracy"][0])
    assert ours.metrics["pair_margin"] == pytest.approx(
        theirs._metrics["eval"]["margin"][0], abs=1e-5
    )

    loss.backward()
    slopes = gradients(algorithm, update)
    for name, parameter in peer.model.named_parameters():
        torch.testing.assert_close(slopes[f"lm.model.{name}"], parameter.grad, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(slopes["head.weight"], peer.score.weight.grad, atol=1e-5, rtol=1e-4)


# -- the direct form ----------------------------------------------------------------------------


def dpo_trainer(workspace: Workspace, policy: nn.Module, loss_type: str) -> Any:
    return trainer(
        "DPOTrainer",
        policy,
        args=SimpleNamespace(gradient_checkpointing_kwargs=None),
        ref_model=load_causal_lm(workspace.model("sft")),
        loss_types=[loss_type],
        loss_weights=[1.0],
        beta=BETA,
        f_divergence_type="reverse_kl",
        ld_alpha=None,
        label_smoothing=0.0,
        precompute_ref_logps=False,
        use_weighting=False,
        aux_loss_enabled=False,
    )


def direct_update(workspace: Workspace, **weights: float) -> tuple[Any, Update[Any]]:
    section = {f"ppo.aihf_direct.{key}": value for key, value in weights.items()}
    algorithm = make_scored(workspace, {**AIHF_DIRECT, "ppo.aihf_direct.beta": BETA, **section})
    rows = sources_of(workspace, algorithm, roll(algorithm))
    (update,) = updates_from(algorithm, rows)
    return algorithm, update


def test_the_pairs_of_the_direct_form_agree_with_dpo(prepared: Workspace) -> None:
    algorithm, update = direct_update(prepared, demonstration_weight=0.0)
    peer = copy.deepcopy(algorithm.models["policy"])
    theirs = dpo_trainer(prepared, peer, "sigmoid")
    loss = theirs._compute_loss(peer, chosen_then_rejected(update.mini_batches[0].pairs), False)
    ours = step_loss(update)
    assert float(ours.total.detach()) == pytest.approx(float(loss.detach()), abs=1e-5)
    told = theirs._metrics["eval"]
    assert ours.metrics["pair_margin"] == pytest.approx(told["rewards/margins"][0], abs=1e-5)
    assert ours.metrics["pair_accuracy"] == pytest.approx(told["rewards/accuracies"][0])

    loss.backward()
    slopes = gradients(algorithm, update)
    for name, parameter in peer.named_parameters():
        torch.testing.assert_close(slopes[name], parameter.grad, atol=1e-5, rtol=1e-4)


def test_demonstrations_of_the_direct_form_agree_with_sft_but_for_the_mean(
    prepared: Workspace,
) -> None:
    algorithm, update = direct_update(prepared, pair_weight=0.0)
    demonstrations = update.mini_batches[0].demonstrations
    # DPOTrainer takes the chosen answers: each demonstration as a pair with itself
    twice = torch.arange(len(demonstrations)).repeat_interleave(2)
    pairs = Comparisons(demonstrations.select(twice), torch.ones(len(demonstrations)))
    theirs = dpo_trainer(prepared, algorithm.models["policy"], "sft")
    with torch.no_grad():
        mean = float(theirs._compute_loss(theirs.model, chosen_then_rejected(pairs), False))
    tokens = int(demonstrations.target_mask.sum()) / len(demonstrations)
    assert tokens == 4
    assert float(step_loss(update).total.detach()) == pytest.approx(tokens * mean, abs=1e-4)


def test_answers_that_are_alike_count_for_nothing(prepared: Workspace) -> None:
    algorithm, update = direct_update(prepared, demonstration_weight=0.0)
    (batch,) = update.mini_batches
    pairs = batch.pairs
    # the second pair is one answer twice
    rows = torch.arange(len(pairs.batch))
    rows[3] = 2
    weights = pairs.weights.clone()
    weights[1] = 0.0
    alike = Comparisons(pairs.batch.select(rows), weights)
    reference = batch.reference_logprobs[rows]
    changed = type(batch)(batch.demonstrations, alike, reference)
    theirs = dpo_trainer(prepared, algorithm.models["policy"], "sigmoid")
    with torch.no_grad():
        loss = float(theirs._compute_loss(theirs.model, chosen_then_rejected(alike), False))
    ours = float(step_loss(update, changed).total.detach())
    assert loss - ours == pytest.approx(0.6931472 / len(pairs), abs=1e-5)
