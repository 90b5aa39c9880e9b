"""The examples of flows/README.md: a stage of one's own, and a message when a policy collapses."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow

from rlhf.batches.tables import write_table
from rlhf.commands.code_links import linked_code, stage_folder
from rlhf.commands.dvc_yaml import pipeline_text
from rlhf.commands.overview import stage_states
from rlhf.commands.worker import main
from rlhf.common.files import read_json
from rlhf.common.yaml import parse_yaml
from rlhf.core import source
from rlhf.settings import preset_text
from rlhf.stage import Stage
from rlhf.stages import STAGES, find_stage
from rlhf.workspace import Workspace
from tests.readme_examples import module_of, python_blocks
from tests.source_tree import ROOT
from tests.waiting import wait_until

ALARM, FUNCTION, ROW, FLOW = python_blocks("flows/README.md")


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
    code = source.file_of(stage.module)
    assert code is not None and code in linked_code(ROOT)[stage_folder("lengths")]
    assert entries["lengths"] == {
        "desc": stage.about,
        "cmd": "python -m flows.lengths",
        "deps": [
            "requirements.lock",
            "data/prepared/prompts.parquet",
            "rlhf/.code/stages/lengths",
        ],
        "params": ["seed"],
        "outs": ["metrics/lengths.json"],
        "metrics": ["metrics/lengths_key.json"],
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


def test_whoever_asks_to_is_told_of_a_collapse(
    prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The README's automation, on a real server: the event reaches a webhook."""
    received: list[str] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            received.append(self.rfile.read(length).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return None

    with ThreadingHTTPServer(("127.0.0.1", 0), Hook) as hook:
        threading.Thread(target=hook.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{hook.server_port}/alarm"
        run_as_user(ALARM, prefect_server, url)
        run_as_user(COLLAPSE, prefect_server)
        wait_until(lambda: received, "nobody was told")
        hook.shutdown()
    assert json.loads(received[0]) == {
        "text": "A policy collapsed: the policy collapsed at iteration 7; kept is that of 5"
    }


# as the flow of the stage ppo does
COLLAPSE = """
from pathlib import Path
from prefect.events.worker import EventsWorker
from tasks.lineage import Lineage
from tasks.run_page import emit_collapse
from tasks.tracking import TrackedRun
run = TrackedRun("ppo", Path(), "run-id", "parent-id", "experiment", Lineage("c0ffee", False, "5e"), "1")
emit_collapse(run, "the policy collapsed at iteration 7; kept is that of 5")
EventsWorker.instance().drain()
"""


def run_as_user(code: str, prefect_server: str, *arguments: str) -> None:
    """Run a script in a process of its own, with the server's address."""
    environment = os.environ | {"PREFECT_API_URL": prefect_server, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True, cwd=ROOT)
