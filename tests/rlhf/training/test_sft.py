import json
import math

import pytest
import torch
from tiny import numbers, tiny_settings
from torch import Tensor

from rlhf.batches.plan import Limits, epoch_plan
from rlhf.batches.tables import read_table, write_table
from rlhf.common.errors import DataError
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.training import sft
from rlhf.workspace import Workspace

FAST = {"sft.epochs": 20.0, "sft.batch_tokens": 48, "sft.optimizer.learning_rate": 1e-2}


@torch.no_grad()
def slow_loss(
    workspace: Workspace, model_name: str, split: str, items: list[int] | None = None
) -> float:
    """Mean over answer tokens, one dialogue and one token at a time."""
    model = load_causal_lm(workspace.model(model_name))
    rows = read_table(workspace, "sft", split=split)
    losses: list[float] = []
    for row in range(len(rows)) if items is None else items:
        ids, mask = rows["input_ids"].iloc[row].tolist(), rows["loss_mask"].iloc[row].tolist()
        logprobs: Tensor = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=1)
        answer = [t for t in range(1, len(ids)) if mask[t]]
        losses += [-float(logprobs[t - 1, ids[t]]) for t in answer]
    return sum(losses) / len(losses)


def test_it_learns_and_says_how_well(workspace: Workspace) -> None:
    sft.train(tiny_settings(FAST), workspace)
    summary = json.loads(workspace.metrics("sft").read_text())
    rows = numbers(workspace.steps("sft"))
    assert rows[0] == {
        "step": 0,
        "validation_loss": summary["base_validation_loss"],
        "validation_perplexity": summary["base_validation_perplexity"],
    }
    assert [row["step"] for row in rows] == list(range(summary["steps"] + 1))
    # an untrained model knows nothing
    assert rows[1]["train_loss"] == pytest.approx(math.log(64), abs=0.3)
    assert summary["train_loss"] < 0.3
    loss = summary["validation_loss"]
    assert loss == rows[-1]["validation_loss"]
    assert loss < summary["base_validation_loss"]
    assert summary["validation_perplexity"] == pytest.approx(math.exp(loss))
    assert summary["seconds"] > 0 and summary["tokens_per_second"] > 0
    assert summary["dialogues"] == 24
    assert all({"learning_rate", "gradient_norm", "train_loss"} <= row.keys() for row in rows[1:])

    # what was saved is what was measured, and nothing else is left
    assert slow_loss(workspace, "sft", "validation") == pytest.approx(loss, abs=1e-4)
    assert load_tokenizer(workspace.model("sft")).eos_token == "<|im_end|>"
    assert [path.name for path in workspace.model("sft").parent.glob(".*")] == []


def test_the_first_losses_are_means_over_the_answers_tokens(
    prepared: Workspace, workspace: Workspace
) -> None:
    settings = tiny_settings({"sft.batch_tokens": 48})
    sft.train(settings, workspace)
    rows = numbers(workspace.steps("sft"))
    lengths = [len(ids) for ids in read_table(prepared, "sft", split="train")["input_ids"]]
    plan = epoch_plan(lengths, Limits(48), 1.0, settings.seed, "sft")
    assert len(rows) == len(plan) + 1
    first_validation = slow_loss(prepared, "base", "validation")
    first_batch = slow_loss(prepared, "base", "train", plan[0])
    assert rows[0]["validation_loss"] == pytest.approx(first_validation, abs=1e-5)
    assert rows[1]["train_loss"] == pytest.approx(first_batch, abs=1e-5)


def test_micro_batches_change_no_number(workspace: Workspace, prepared: Workspace) -> None:
    runs = []
    for size in (10, 48):
        changes = {
            "sft.batch_tokens": 48,
            "sft.micro_batch_tokens": size,
            "sft.optimizer.epsilon": 1e-4,
        }
        sft.train(tiny_settings(changes), workspace)
        runs.append(numbers(workspace.steps("sft")))
    assert len(runs[0]) == len(runs[1])
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, abs=2e-4)


def test_lower_layers_stay_as_they_are_if_wanted(workspace: Workspace, prepared: Workspace) -> None:
    sft.train(tiny_settings({"sft.trainable_layers": 1}), workspace)
    before, after = (load_causal_lm(workspace.model(name)).state_dict() for name in ("base", "sft"))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.startswith(("model.layers.1.", "model.norm")) for name in moved)


def test_a_table_without_held_out_rows_is_refused_before_any_work(workspace: Workspace) -> None:
    rows = read_table(workspace, "sft", split="train").to_dict("records")
    write_table(workspace.prepared, "sft", rows)
    with pytest.raises(DataError, match=r"sft\.parquet: has no rows of split validation"):
        sft.train(tiny_settings(), workspace)
    assert not workspace.metrics("sft").exists() and not workspace.steps("sft").exists()
