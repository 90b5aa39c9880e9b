import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from raw_files import write_lines
from transformers import AutoTokenizer

from rlhf.common.errors import SourceError
from rlhf.common.files import read_json, tree_bytes, tree_sha256
from rlhf.common.yaml import parse_yaml
from rlhf.data.fetch import fetch
from rlhf.settings import preset_text, settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


def test_fetch_brings_everything_and_pins_it(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    write_lines(tmp_path / "own" / "helpful" / "train.jsonl", [{"text": "x"}])
    settings = make_settings(sft=["starter", "path:own"])
    fetch(settings, workspace)
    assert AutoTokenizer.from_pretrained(workspace.model("base")).chat_template.startswith(
        "{% for message in messages %}"
    )
    assert {
        path.relative_to(workspace.raw).as_posix()
        for path in workspace.raw.rglob("*")
        if path.is_file()
    } == {
        "sft/0/pairs.jsonl",
        "sft/1/own/helpful/train.jsonl",
        "preferences/0/pairs.jsonl",
        "prompts/0/prompts.jsonl",
        "evaluation/0/evaluation.jsonl",
        "pretrain/0/pretrain.jsonl",
    }
    told = read_json(workspace.metrics("fetch"))
    assert told["sft_1_source"] == "path:own" and told["sft_1_sha256"] == tree_sha256(
        workspace.raw / "sft" / "1"
    )
    assert told["model_source"] == "random:2x64" and told["model_bytes"] == tree_bytes(
        workspace.model("base")
    )
    assert told["bytes"] == told["model_bytes"] + tree_bytes(workspace.raw)
    before = tree_sha256(tmp_path)
    fetch(settings, workspace)
    assert tree_sha256(tmp_path) == before


def test_a_failed_fetch_leaves_nothing_half_done(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(
        SourceError, match=r"^data\.pretrain: path:nowhere: .*nowhere does not exist"
    ):
        fetch(make_settings(pretrain=["path:nowhere"]), workspace)
    assert list(tmp_path.iterdir()) == []  # told before anything is brought
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        SourceError, match=r"^data\.pretrain: path:empty: no data files"
    ):  # told once the model is here
        fetch(make_settings(pretrain=["path:empty"]), workspace)
    assert (
        not workspace.model("base").exists()
        and not workspace.raw.exists()
        and not workspace.metrics("fetch").exists()
    )
    assert [
        path.name for place in ("data", "models") for path in (tmp_path / place).iterdir()
    ] == []


def test_a_fetch_that_cannot_write_its_figures_leaves_no_model(
    make_settings: Callable[..., Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, values: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    workspace = Workspace(tmp_path)
    monkeypatch.setattr("rlhf.data.fetch.write_summary", full)
    with pytest.raises(OSError, match="No space left"):
        fetch(make_settings(), workspace)
    assert [
        path.name for place in ("data", "models") for path in (tmp_path / place).iterdir()
    ] == []


@pytest.mark.parametrize("address", ["starter", "world:10"])
def test_sources_without_steps_say_so(
    make_settings: Callable[..., Settings], tmp_path: Path, address: str
) -> None:
    with pytest.raises(SourceError, match=f"^data\\.steps: {address}: has nothing for data.steps"):
        fetch(make_settings(steps=[address]), Workspace(tmp_path))


def test_a_model_that_is_not_the_pinned_one_is_refused(tmp_path: Path) -> None:
    content = parse_yaml(preset_text("tiny"), "tiny")
    content["model"]["sha256"] = "0" * 64
    with pytest.raises(
        SourceError, match=f"sha256 is [0-9a-f]{{64}}, but the settings pin {'0' * 64}"
    ):
        fetch(settings_from(content), Workspace(tmp_path))
    assert not Workspace(tmp_path).model("base").exists()
