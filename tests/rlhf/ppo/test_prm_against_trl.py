"""The process reward model against TRL's PRMTrainer (1.12.0): tokens, labels, loss.

What differs on purpose, with TRL's default settings:

| | TRL | here |
|---|---|---|
| behind the last step | the separator, which bears its label | the end token, which bears its label: the same position |
| a step and its separator | tokenised apart | together, as the policy writes them; the same where no token holds both |
| prompt | as it is, behind a token that begins texts | the chat template |
| labels | true or false; int() makes a soft label 0 | soft ones count as they are |
| no label | not possible in a row | null |
| head | two logits and softmax | one logit: that of right less that of wrong |
| mean | over the labels of a micro-batch, or of a step that transformers puts together | over those of the whole batch |
| a step that the cut leaves unfinished | no label | the same |
"""

import warnings
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
import torch
from additions import TOKENIZER, addition_workspace, prompt_ids, response_ids
from tiny import tiny_settings
from torch import nn
from transformers import LlamaForTokenClassification

from rlhf.core.separators import StepFinder
from rlhf.data.sources.additions import Addition
from rlhf.engine import make_engine
from rlhf.models.heads import new_scalar_model
from rlhf.ppo.steps import step_loss
from rlhf.training.solution_reader import SolutionReader

IGNORED = -100
ADDITION = Addition((1, 7), (2, 5))
LINES = ["7+5+0=12", "1+2+1=05", "042"]
LABELS = [True, False, True]


@pytest.fixture(scope="module")
def trl() -> ModuleType:
    with warnings.catch_warnings():
        # it is experimental
        warnings.simplefilter("ignore")
        from trl.experimental.prm import prm_trainer
    return prm_trainer


def theirs(trl: ModuleType, max_length: int = 1024) -> dict[str, list[int]]:
    """A row as TRL's default settings make it."""
    features = {"prompt": ADDITION.prompt + "\n", "completions": LINES, "labels": LABELS}
    return trl.PRMTrainer.tokenize_row(
        features, TOKENIZER, "\n", max_length, None, train_on_last_step_only=False, is_eval=False
    )


def ours() -> tuple[list[int], list[int]]:
    """Tokens, and the label at each or IGNORED."""
    prompt, response = prompt_ids(ADDITION), response_ids(LINES)
    labels = [IGNORED] * (len(prompt) + len(response))
    ends = StepFinder(TOKENIZER, "\n").ends(response)
    for end, label in zip(ends, LABELS, strict=True):
        labels[len(prompt) + end] = int(label)
    return [*prompt, *response], labels


def test_the_same_labels_stand_at_the_same_positions(trl: ModuleType) -> None:
    row = theirs(trl)
    ids, labels = ours()
    assert row["labels"] == labels
    # but for what stands behind the last step
    assert row["input_ids"][:-1] == ids[:-1]
    assert (row["input_ids"][-1], ids[-1]) == (TOKENIZER.encode("\n")[0], TOKENIZER.eos_token_id)


def test_a_cut_leaves_the_last_step_without_a_label_there_too(trl: ModuleType) -> None:
    ids, labels = ours()
    limit = len(ids) - 2
    row = theirs(trl, max_length=limit)
    assert row["labels"] == labels[:limit]
    cut = response_ids(LINES)[:-2]
    assert len(StepFinder(TOKENIZER, "\n").ends(cut)) == 2


def test_a_soft_label_is_lost_there(trl: ModuleType) -> None:
    features = {"prompt": "1+1", "completions": ["2"], "labels": [0.9]}
    row = trl.PRMTrainer.tokenize_row(features, TOKENIZER, "\n", None, None, False, False)
    assert row["labels"][-1] == 0


@torch.no_grad()
def test_the_same_loss_and_gradient_come_of_the_same_model(tmp_path: Path) -> None:
    """Their two logits are 0 and ours."""
    workspace = addition_workspace(tmp_path)
    model = new_scalar_model(workspace.model("sft"), 1, "process")
    peer = LlamaForTokenClassification(model.lm.config).eval()
    peer.model.load_state_dict(model.lm.base_model.state_dict())
    peer.score = nn.Linear(model.lm.config.hidden_size, 2)
    peer.score.weight.copy_(torch.cat([torch.zeros_like(model.head.weight), model.head.weight]))
    peer.score.bias.zero_()

    prompt, response = prompt_ids(ADDITION), response_ids(LINES)
    ids, labels = ours()
    with torch.enable_grad():
        output = peer(input_ids=torch.tensor([ids]), labels=torch.tensor([labels]))
        output.loss.backward()
        row = {
            "prompt_ids": prompt,
            "response_ids": response,
            "step_ends": StepFinder(TOKENIZER, "\n").ends(response),
            "labels": [float(label) for label in LABELS],
        }
        reader = SolutionReader(pd.DataFrame([row]), 0, make_engine(tiny_settings().engine))
        logits, targets = reader.logits_and_labels(model, [0])
        loss = step_loss(logits, targets).mean()
        loss.backward()
    assert float(loss) == pytest.approx(float(output.loss), rel=1e-5)
    for mine, other in zip(model.lm.base_model.parameters(), peer.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, other.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(model.head.weight.grad[0], peer.score.weight.grad[1])
