"""The losses of DPO against the DPOTrainer of TRL 1.12.0, from the same models and pairs.

Where we differ on purpose; a test below shows each line marked *:

| quantity          | TRL                                             | here                                |
|-------------------|-------------------------------------------------|-------------------------------------|
| IPO *             | means over an answer's tokens                   | sums, as in the paper               |
| label smoothing * | none with `sigmoid`; `robust` divides by 1 - 2e | of `sigmoid`, as in the DPO code    |
| the pair          | two rows, the prompt computed twice             | one row, the prompt computed once   |
| the reference     | a second forward pass, or sums beforehand       | sums, before the first step         |
"""

import importlib
from collections import defaultdict
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tiny import PAD, moved_top
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.batches.pairs import pad_pairs
from rlhf.models.pair_answers import answer_logprobs
from rlhf.models.saving import load_causal_lm
from rlhf.ppo.dpo import dpo_loss, ipo_loss
from rlhf.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

BETA = 0.3
PROMPTS = [[2, 5, 6], [2, 9], [2, 9, 10, 11]]
CHOSEN = [[7, 8, 1], [20, 1], [33, 1]]
REJECTED = [[30, 1], [31, 32, 33, 1], [40, 41, 1]]
# as many tokens in both answers of all pairs
EVEN_CHOSEN = [[7, 8, 1], [20, 21, 1], [33, 34, 1]]
EVEN_REJECTED = [[30, 9, 1], [31, 32, 1], [40, 41, 1]]


@pytest.fixture(scope="module")
def trl() -> ModuleType:
    """Imported late: collecting the tests would take seconds longer in every process."""
    return importlib.import_module("trl.trainer.dpo_trainer")


@pytest.fixture(scope="module")
def models(prepared: Workspace) -> tuple[PreTrainedModel, PreTrainedModel]:
    """A policy and its reference."""
    return moved_top(prepared.model("sft")), load_causal_lm(prepared.model("sft"))


def sums(models: tuple[PreTrainedModel, ...], chosen: Any, rejected: Any) -> tuple[Tensor, ...]:
    """log pi of the chosen and the rejected answers, then log pi_ref of both."""
    batch = pad_pairs(PROMPTS, chosen, rejected, PAD)
    found = [answer_logprobs(model, batch).unbind(dim=1) for model in models]
    return (*found[0], *found[1])


def their_loss(
    trl: ModuleType,
    models: tuple[PreTrainedModel, PreTrainedModel],
    chosen: Any,
    rejected: Any,
    loss: str,
    smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, list[float]]]:
    """What `DPOTrainer._compute_loss` says of a batch, and its metrics."""
    policy, reference = models
    same = SimpleNamespace(
        device=torch.device("cpu"),
        gather=lambda value: value,
        gather_for_metrics=lambda value: value,
    )
    trainer = trl.DPOTrainer.__new__(trl.DPOTrainer)
    trainer.__dict__ |= {
        "accelerator": same,
        "model": policy,
        "ref_model": reference,
        "args": SimpleNamespace(gradient_checkpointing_kwargs=None),
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "precompute_ref_logps": False,
        "f_divergence_type": "reverse_kl",
        "loss_types": [loss],
        "loss_weights": [1.0],
        "beta": BETA,
        "label_smoothing": smoothing,
        "use_weighting": False,
        "_metrics": {"train": defaultdict(list), "eval": defaultdict(list)},
        "_total_train_tokens": 0,
    }
    answers = [*chosen, *rejected]
    rows = [[*prompt, *answer] for prompt, answer in zip(PROMPTS * 2, answers, strict=True)]
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    completion = mask.clone()
    for place, prompt in enumerate(PROMPTS * 2):
        completion[place, : len(prompt)] = 0
    inputs = {"input_ids": ids, "attention_mask": mask, "completion_mask": completion}
    value = trainer._compute_loss(policy, inputs, return_outputs=False)
    return value, trainer._metrics["eval"]


def test_the_loss_and_its_gradient_agree(
    trl: ModuleType, models: tuple[PreTrainedModel, PreTrainedModel]
) -> None:
    gradients = []
    losses = []
    for ours in (True, False):
        models[0].zero_grad()
        if ours:
            loss = dpo_loss(*sums(models, CHOSEN, REJECTED), BETA).mean()
        else:
            loss, _ = their_loss(trl, models, CHOSEN, REJECTED, "sigmoid")
        loss.backward()
        losses.append(float(loss.detach()))
        named = models[0].named_parameters()
        gradients.append({name: p.grad.clone() for name, p in named if p.grad is not None})
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, slope in gradients[0].items():
        torch.testing.assert_close(slope, gradients[1][name], atol=1e-5, rtol=1e-3)


def test_log_probabilities_rewards_and_margins_agree(
    trl: ModuleType, models: tuple[PreTrainedModel, PreTrainedModel]
) -> None:
    chosen, rejected, above, below = sums(models, CHOSEN, REJECTED)
    _, theirs = their_loss(trl, models, CHOSEN, REJECTED, "sigmoid")
    margins = BETA * ((chosen - above) - (rejected - below))
    ours = {
        "logps/chosen": chosen.mean(),
        "logps/rejected": rejected.mean(),
        "rewards/chosen": BETA * (chosen - above).mean(),
        "rewards/rejected": BETA * (rejected - below).mean(),
        "rewards/margins": margins.mean(),
        "rewards/accuracies": (margins > 0).float().mean(),
    }
    for name, value in ours.items():
        assert float(value.detach()) == pytest.approx(theirs[name][0], abs=1e-5), name


@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_label_smoothing_agrees_with_their_robust_loss_but_for_its_scale(
    trl: ModuleType, models: tuple[PreTrainedModel, PreTrainedModel], smoothing: float
) -> None:
    """Theirs is ((1 - e) L - e L') / (1 - 2 e) where L' is the loss the other way round."""
    found = sums(models, CHOSEN, REJECTED)
    with torch.no_grad():
        ours = dpo_loss(*found, BETA, smoothing).mean()
        other_way = dpo_loss(found[1], found[0], found[3], found[2], BETA).mean()
        robust, _ = their_loss(trl, models, CHOSEN, REJECTED, "robust", smoothing)
    theirs = robust * (1 - 2 * smoothing) + 2 * smoothing * other_way
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
    assert float(ours) != pytest.approx(float(robust), abs=1e-3)


def test_label_smoothing_is_their_aot_loss_of_one_pair(
    trl: ModuleType,
    models: tuple[PreTrainedModel, PreTrainedModel],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That one sorts a batch, of which a single pair is sorted already."""
    for place in range(len(PROMPTS)):
        monkeypatch.setattr(f"{__name__}.PROMPTS", [[2, 5, 6]])
        chosen, rejected = CHOSEN[place : place + 1], REJECTED[place : place + 1]
        with torch.no_grad():
            ours = dpo_loss(*sums(models, chosen, rejected), BETA, 0.2).mean()
            theirs, _ = their_loss(trl, models, chosen, rejected, "aot", 0.2)
        assert float(ours) == pytest.approx(float(theirs), abs=1e-5)


def test_ipo_agrees_where_all_answers_are_as_long(
    trl: ModuleType, models: tuple[PreTrainedModel, PreTrainedModel]
) -> None:
    """With n tokens theirs is (d / n - 1 / 2b)^2: ours with b / n, over n^2."""
    count = len(EVEN_CHOSEN[0])
    with torch.no_grad():
        theirs, _ = their_loss(trl, models, EVEN_CHOSEN, EVEN_REJECTED, "ipo")
        found = sums(models, EVEN_CHOSEN, EVEN_REJECTED)
        ours = ipo_loss(*found, BETA / count).mean() / count**2
        on_sums = ipo_loss(*found, BETA).mean()
    assert float(ours) == pytest.approx(float(theirs), abs=1e-5)
    assert float(on_sums) != pytest.approx(float(theirs), abs=1e-2)
