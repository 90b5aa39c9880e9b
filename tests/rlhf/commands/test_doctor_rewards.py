"""What `rlhf doctor` finds of rewards and of judges that are models."""

import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from rlhf.commands.workspace_checks import (
    code_check,
    judges_check,
    rewards_check,
    teacher_check,
)
from rlhf.common.yaml import parse_yaml
from rlhf.models.export import export_classifier
from rlhf.settings import preset_text, settings_from
from rlhf.workspace import Workspace
from tests.source_tree import ROOT


def test_it_tells_of_a_reward_function_that_is_not_there(tmp_path: Path) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    assert rewards_check(workspace, settings_from(content)).state == "ok"
    content["ppo"]["rewards"] = ["python:tests/own_rewards/sums.py:words"]
    assert rewards_check(workspace, settings_from(content)).state == "ok"
    for function, file in (("wrods", "sums.py"), ("words", "some.py")):
        content["ppo"]["rewards"] = [f"python:tests/own_rewards/{file}:{function}"]
        found = rewards_check(workspace, settings_from(content))
        assert found.state == "fault" and file in found.found


def test_it_tells_of_a_reward_function_that_dvc_does_not_watch(tmp_path: Path) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    assert code_check(workspace, settings_from(content)).state == "ok"
    content["ppo"]["rewards"] = ["python:tests/own_rewards/sums.py:words"]
    found = code_check(workspace, settings_from(content))
    assert found.state == "fault" and "make dvc.yaml" in found.found
    assert found.found.startswith("dvc.yaml: ppo runs ")
    assert "tests/own_rewards/sums.py" in found.found and "ppo_max.py" not in found.found


def test_it_tells_of_classifiers_that_are_not_there(tmp_path: Path) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    (tmp_path / "empty").mkdir()
    content["ppo"]["rewards"] = ["model:reward", "hf:empty"]
    found = rewards_check(workspace, settings_from(content))
    assert found.state == "fault" and "ppo.rewards: hf:empty: " in found.found
    assert "empty: no model here" in found.found

    content["gold"], content["evaluate"]["gold"] = None, f"hf:{tmp_path}/nowhere"
    content["data"]["gold_fraction"] = 0.0
    found = judges_check(workspace, settings_from(content))
    assert found.state == "fault" and f"evaluate.gold: hf:{tmp_path}/nowhere: " in found.found
    assert "nowhere: no model here" in found.found

    content["evaluate"] |= {"gold": f"hf:{classifier(tmp_path / 'one')}"}
    content["evaluate"]["opponents"] = {"theirs": f"path:{tmp_path}/empty"}
    found = judges_check(workspace, settings_from(content))
    assert found.found.startswith(f"evaluate.opponents.theirs: path:{tmp_path}/empty: ")


def classifier(directory: Path, labels: int = 1, seed: int = 0) -> Path:
    """A tiny one, as transformers writes it."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_labels=labels,
    )
    LlamaForSequenceClassification(config).save_pretrained(directory)
    return directory


def test_it_tells_what_a_classifier_is(tmp_path: Path, prepared: Workspace) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    classifier(tmp_path / "one")
    classifier(tmp_path / "five", labels=5)
    content["gold"], content["data"]["gold_fraction"] = None, 0.0
    refused = {
        "five": "LlamaForSequenceClassification with 5 labels; a reward model has one",
        str(prepared.model("sft")): "ForCausalLM, whose weights have no head of a classifier",
    }
    for directory, told in (("one", None), *refused.items()):
        content["ppo"]["rewards"] = [f"hf:{directory}"]
        content["evaluate"]["gold"] = f"hf:{directory}"
        settings = settings_from(content)
        checks = {
            "ppo would refuse to begin": rewards_check(workspace, settings),
            "evaluate would refuse to begin": judges_check(workspace, settings),
        }
        for advice, check in checks.items():
            assert check.state == ("ok" if told is None else "fault")
            assert told is None or (told in check.found and check.advice == advice)
    content["ppo"]["rewards"] = ["hf:one"]
    found = rewards_check(workspace, settings_from(content)).found
    assert found == "hf:one (LlamaForSequenceClassification, one label)"


def test_it_tells_of_a_judge_that_is_the_reward(tmp_path: Path) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    one, other = classifier(tmp_path / "one"), classifier(tmp_path / "other", seed=1)
    (tmp_path / "link").symlink_to(one)
    shutil.copytree(one, tmp_path / "copy")
    content["gold"], content["data"]["gold_fraction"] = None, 0.0
    content["ppo"]["rewards"] = ["model:reward", {"reward": "hf:./one/", "weight": 0.5}]

    for gold, is_same in (("one", True), ("link", True), ("copy", True), (other.name, False)):
        content["evaluate"]["gold"] = f"hf:{gold}"
        found = teacher_check(workspace, settings_from(content))
        assert found.state == ("note" if is_same else "ok"), gold
    content["evaluate"]["gold"] = f"hf:{one}"
    found = teacher_check(workspace, settings_from(content))
    assert f"evaluate.gold hf:{one} and ppo.rewards hf:./one/ are one model" in found.found
    assert "pleased its own teacher" in found.advice
    # where another judges, nothing is amiss
    content["evaluate"]["judges"] = ["rules"]
    assert teacher_check(workspace, settings_from(content)).state == "ok"


def test_an_exported_reward_model_is_the_reward(tmp_path: Path, prepared: Workspace) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    shutil.copytree(prepared.model("reward"), workspace.model("reward"))
    export_classifier(workspace.model("reward"), tmp_path / "exported")
    content["gold"], content["data"]["gold_fraction"] = None, 0.0
    content["evaluate"]["gold"] = "hf:exported"
    found = teacher_check(workspace, settings_from(content))
    assert (found.state, "ppo.rewards model:reward" in found.found) == ("note", True)


def test_our_gold_model_as_a_reward_is_the_judge(tmp_path: Path, prepared: Workspace) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    shutil.copytree(prepared.model("reward"), workspace.model("gold"))
    assert content["evaluate"]["gold"] is None
    assert teacher_check(workspace, settings_from(content)).state == "ok"
    content["ppo"]["rewards"] = ["hf:models/gold"]
    found = teacher_check(workspace, settings_from(content))
    assert found.state == "note"
    assert "evaluate.gold null, models/gold, and ppo.rewards hf:models/gold are one" in found.found
