"""Our reward models as transformers' sequence classifiers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny import EOS, PAD, TURNS, prompts_of, tiny_settings, tiny_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
)

from rlhf.batches.padding import pad_responses
from rlhf.commands.cli import main
from rlhf.common.errors import ModelError
from rlhf.common.files import tree_bytes
from rlhf.engine import make_engine
from rlhf.models.classifier import Classifier
from rlhf.models.export import export_classifier
from rlhf.models.heads import load_scalar_model, response_scores
from rlhf.models.roles import Models
from rlhf.rewards.base import RewardContext, make_rewards
from rlhf.rollout.records import Rollout, Sampled, make_rollout
from rlhf.workspace import Workspace


@pytest.fixture
def rollout() -> Rollout:
    prompts = prompts_of([[2, 9, 30, 1, 2], [2, 11, 1, 2]])
    responses = [[12, 13, 14, EOS], [16]]
    sampled = Sampled(responses, [[0.0] * len(response) for response in responses])
    return make_rollout(prompts, sampled, EOS, PAD, torch.device("cpu"))


@pytest.fixture
def ours(workspace: Workspace) -> Path:
    """A reward model with a bias, whose tokenizer has a template."""
    directory = workspace.model("reward")
    head = load_scalar_model(directory).head
    weights = {"weight": head.weight.detach(), "bias": torch.tensor([-0.75])}
    save_file(weights, directory / "scalar_head.safetensors")
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TURNS
    tokenizer.save_pretrained(directory)
    return directory


@torch.no_grad()
def test_transformers_scores_as_we_do_but_for_the_bias(
    ours: Path, rollout: Rollout, tmp_path: Path
) -> None:
    bias = export_classifier(ours, tmp_path / "out")
    assert bias == -0.75
    assert json.loads((tmp_path / "out" / "config.json").read_text())["score_bias"] == -0.75
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    expected = response_scores(load_scalar_model(ours), rollout.batch)
    batch = pad_responses(rollout.prompts.ids, rollout.responses, PAD)
    found = model(input_ids=batch.input_ids, attention_mask=(batch.input_ids != PAD).long()).logits
    torch.testing.assert_close(found[:, 0] + bias, expected, atol=1e-5, rtol=0)


def test_by_text_it_scores_as_the_chain_does(
    ours: Path, workspace: Workspace, rollout: Rollout
) -> None:
    """The end token is the last one: what a template puts behind it is not read."""
    export_classifier(ours, workspace.root / "out")
    settings = tiny_settings({"ppo.rewards": ["model:reward", "hf:out"], "ppo.micro_batch": 2})
    models = Models(make_engine(settings.engine), None)
    context = RewardContext(settings, workspace, models, tiny_tokenizer())
    read = make_rewards(context).read(rollout)
    torch.testing.assert_close(read["hf_out"].scores, read["model"].scores, atol=1e-5, rtol=0)


def test_it_takes_no_room_twice(ours: Path, tmp_path: Path) -> None:
    export_classifier(ours, tmp_path / "out")
    (weights,) = (tmp_path / "out").glob("backbone-*.safetensors")
    assert weights.samefile(ours / "model.safetensors")
    own = [path for path in (tmp_path / "out").iterdir() if path != weights]
    assert sum(path.stat().st_size for path in own) < tree_bytes(ours) / 4


def test_the_command_writes_it_once(
    ours: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-C", str(workspace.root), "export-reward", "out"]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "score of models/reward = its score -0.750000" in capsys.readouterr().out
    engine = make_engine(tiny_settings().engine)
    assert Classifier.load(workspace.root / "out", engine, 4).window == 256
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    assert "is there already" in capsys.readouterr().err


def test_what_is_no_reward_model_of_ours_is_not_exported(
    prepared: Workspace, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"no scalar_head\.safetensors: this is not a reward"):
        export_classifier(prepared.model("sft"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
