"""The stages with adapters, end to end: what they learn, what they save, what changes no number."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from neighbours import lora
from safetensors.torch import load_file, save_file
from test_reward import slow_scores
from test_sft import slow_loss
from tiny import copy_workspace, numbers, tiny_settings

from rlhf.models.heads import load_scalar_model
from rlhf.models.saving import load_tokenizer
from rlhf.training import loop, reward, sft
from rlhf.workspace import Workspace

SFT = {
    **lora("sft", dropout=0.1),
    "sft.epochs": 20.0,
    "sft.batch_tokens": 48,
    "sft.optimizer.learning_rate": 2e-2,
}
REWARD = {
    **lora("reward", dropout=0.1),
    "reward.epochs": 6.0,
    "reward.batch_tokens": 256,
    "reward.optimizer.learning_rate": 1e-2,
    "reward.checkpoint_every": 2,
}
PPO = {
    **lora("ppo"),
    "ppo.optimizer.learning_rate": 1e-2,
    "ppo.iterations": 3,
    "ppo.micro_batch": 2,
    "ppo.keep": "last",
}
ADAPTED = ("_proj.weight",)


def changed_weights(workspace: Workspace, before: str, after: str) -> set[str]:
    """The weights that differ between two models of a workspace, which have the same names."""
    one, two = (load_file(workspace.model(name) / "model.safetensors") for name in (before, after))
    assert one.keys() == two.keys()
    return {name for name in one if not torch.equal(one[name], two[name])}


@pytest.fixture(scope="module")
def chain(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """sft, reward and ppo after each other, each with adapters; only to be read."""
    workspace = copy_workspace(prepared, tmp_path_factory.mktemp("chain"))
    settings = tiny_settings({**SFT, **REWARD, **PPO})
    sft.train(settings, workspace)
    reward.train(settings, workspace)
    loop.train(settings, workspace)
    return workspace


def test_sft_learns_and_what_was_saved_is_what_was_measured(chain: Workspace) -> None:
    summary = json.loads(chain.metrics("sft").read_text())
    # a random unembedding stays as it is: states of length 8 and rows of 0.16 allow for little more
    assert summary["train_loss"] < 3.2 < 4 < summary["base_validation_loss"]
    found = slow_loss(chain, "sft", "validation")
    assert found == pytest.approx(summary["validation_loss"], abs=1e-4)


@torch.no_grad()
def test_the_reward_model_learns_and_what_was_saved_is_what_was_measured(
    chain: Workspace,
) -> None:
    summary = json.loads(chain.metrics("reward").read_text())
    assert summary["accuracy"] >= 0.9
    chosen, rejected = slow_scores(load_scalar_model(chain.model("reward")), chain, "test")
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    assert summary["margin_mean"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)


@pytest.mark.parametrize(
    ("before", "after"), [("base", "sft"), ("sft", "reward"), ("sft", "policy")]
)
def test_each_model_differs_from_its_start_in_the_adapted_layers_alone(
    chain: Workspace, before: str, after: str
) -> None:
    moved = changed_weights(chain, before, after)
    # seven in each of two blocks
    assert len(moved) == 14 and all(name.endswith(ADAPTED) for name in moved)


def test_the_files_are_those_that_a_full_run_writes(chain: Workspace, prepared: Workspace) -> None:
    for name in ("sft", "reward"):
        full, merged = (
            {path.name for path in place.model(name).iterdir()} for place in (prepared, chain)
        )
        assert merged == full
    for start, name in (("base", "sft"), ("sft", "reward"), ("sft", "policy")):
        one, two = (chain.model(model) / "config.json" for model in (start, name))
        assert one.read_bytes() == two.read_bytes()


def test_the_first_ratio_is_one_and_the_reference_is_the_start(chain: Workspace) -> None:
    """Responses are scored by policy and reference on one backbone: before a step they are equal."""
    rows = {row["step"]: row for row in numbers(chain.steps("ppo"))}
    assert rows[-1]["kl"] == 0.0 and rows[0]["kl"] == 0.0
    learnt = [row for step, row in rows.items() if 0 <= step < 3]
    assert [row["first_ratio_deviation"] for row in learnt] == [0.0, 0.0, 0.0]
    # and then the policy leaves it
    assert abs(rows[3]["validation_kl"]) > 1e-4


def test_checkpoints_hold_adapters_and_head_alone(chain: Workspace) -> None:
    (run,) = (chain.checkpoints / "ppo").iterdir()
    newest = max(run.glob("step-*"))
    for role, heads in (("policy", set()), ("critic", {"head.weight", "head.bias"})):
        saved = load_file(newest / role / "weights-00000.safetensors")
        weights = {key.removesuffix("@0") for key in saved}
        assert {name for name in weights if ".lora_" not in name} == heads
        assert len(weights) == 2 * 14 + len(heads)


@pytest.mark.parametrize("stage", ["sft", "reward"])
def test_micro_batches_change_no_number(workspace: Workspace, stage: str) -> None:
    runs = []
    for size in (40, 160):
        changes: dict[str, Any] = {
            **lora(stage),
            f"{stage}.batch_tokens": 160,
            f"{stage}.micro_batch_tokens": size,
            f"{stage}.optimizer.epsilon": 1e-4,
        }
        train = sft.train if stage == "sft" else reward.train
        train(tiny_settings(changes), workspace)
        runs.append(numbers(workspace.steps(stage)))
    assert len(runs[0]) == len(runs[1]) > 2
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, abs=2e-4)


def test_only_top_blocks_where_trainable_layers_says_so(workspace: Workspace) -> None:
    sft.train(tiny_settings({**lora("sft"), "sft.trainable_layers": 1}), workspace)
    moved = changed_weights(workspace, "base", "sft")
    assert len(moved) == 7
    assert all(name.startswith("model.layers.1.") for name in moved)


def test_a_layer_that_is_not_there_ends_the_stage_before_its_first_step(
    workspace: Workspace,
) -> None:
    settings = tiny_settings(lora("sft", target_modules=["c_attn"]))
    with pytest.raises(Exception, match=r"no linear layer is called c_attn; .* has down_proj, "):
        sft.train(settings, workspace)
    assert not Path(workspace.steps("sft")).exists()


def test_an_end_of_turn_that_the_base_does_not_know_is_told(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    """Its logit is that of another token for ever: half of the answers would go on."""
    path = workspace.model("base") / "model.safetensors"
    weights = load_file(path)
    end = load_tokenizer(workspace.model("base")).eos_token_id
    name = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
    weights[name][9] = weights[name][end]
    save_file(weights, path, {"format": "pt"})
    told = "the unembedding does not learn"
    sft.train(tiny_settings({"sft.batch_tokens": 4096}), workspace)
    assert told not in caplog.text
    sft.train(tiny_settings({**lora("sft"), "sft.batch_tokens": 4096}), workspace)
    assert told in caplog.text and "'w9' for one" in caplog.text
