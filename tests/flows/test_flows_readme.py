"""The stage that flows/README.md adds is a stage like any other."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow

from rlhf.batches.tables import write_table
from rlhf.commands.dvc_yaml import pipeline_text
from rlhf.commands.overview import stage_states
from rlhf.commands.worker import main
from rlhf.common.files import read_json
from rlhf.common.yaml import parse_yaml
from rlhf.core import source
from rlhf.settings import preset_text
from rlhf.stages import STAGES, Stage, find_stage
from rlhf.workspace import Workspace
from tests.readme_examples import module_of, python_blocks
from tests.source_tree import ROOT

FUNCTION, ROW, FLOW = python_blocks("flows/README.md")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    """The stage of the example, in the table and importable."""
    added: Stage = eval(ROW, {"Stage": Stage})
    folder = tmp_path / "code"
    folder.mkdir()
    module_of(monkeypatch, added.module, FUNCTION, folder)
    monkeypatch.setitem(STAGES, added.name, added)
    return added


def test_it_is_listed_and_in_dvc_yaml(stage: Stage) -> None:
    assert find_stage("lengths") is stage
    text = pipeline_text((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    entries: Mapping[str, Any] = parse_yaml(text, "dvc.yaml")["stages"]
    assert list(entries) == list(STAGES)
    data_and_code = entries["lengths"].pop("deps")
    assert data_and_code[:2] == ["requirements.lock", "data/prepared/prompts.parquet"]
    code = source.file_of(stage.module)
    assert code is not None and code.as_posix() in data_and_code
    assert entries["lengths"] == {
        "desc": stage.about,
        "cmd": "python -m flows.lengths",
        "params": ["seed"],
        "outs": [],
        "metrics": ["metrics/lengths.json"],
    }


def test_the_worker_runs_it_and_show_has_its_metrics(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "params.yaml").write_text(preset_text("tiny"), encoding="utf-8")
    texts = dict.fromkeys(("id", "kind", "split", "source", "opening", "messages"), "x")
    prompts = [texts | {"prompt_ids": ids} for ids in ([1, 2], [1, 2, 3])]
    workspace = Workspace(tmp_path)
    workspace.prepared.mkdir(parents=True)
    write_table(workspace.prepared, "prompts", prompts)
    monkeypatch.chdir(tmp_path)
    assert main([stage.name]) == 0
    assert read_json(workspace.metrics("lengths")) == {"longest": 3}
    (state,) = [state for state in stage_states(workspace) if state.name == "lengths"]
    assert state.done and state.key_metrics == {"longest": 3}


def test_its_flow_is_one(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module_of(monkeypatch, "flows.lengths", FLOW, tmp_path)
    flow = sys.modules["flows.lengths"].lengths
    assert isinstance(flow, Flow) and flow.name == stage.name
    assert flow.description == "Write how long the prompts are."
