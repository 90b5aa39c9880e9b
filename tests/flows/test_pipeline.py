"""The pipeline flow and DVC's experiments on the finished tiny chain: both go through DVC, and give what it gives."""

import json
import re
import sys

import pytest

from rlhf.common.yaml import read_yaml
from rlhf.workspace import Workspace
from tasks.tracking import client_of
from tests.flows.records import flow_runs, newest
from tests.project_copy import Project
from tests.waiting import wait_until

PIPELINE = (sys.executable, "-m", "flows.pipeline")
CHANGED = """
from pathlib import Path
from flows.pipeline import pipeline
from flows.stage import prefect_server
from tasks.execution import current_execution
with prefect_server(Path(), current_execution()):
    pipeline(overrides={"report.dialogues": 3})
"""


def lock(project: Project) -> str:
    return (project.root / "dvc.lock").read_text()


def test_where_all_is_up_to_date_the_flow_runs_nothing_and_completes(
    changed_chain: Project,
) -> None:
    before = lock(changed_chain)
    output = changed_chain.run(*PIPELINE)
    assert "Running stage" not in output
    assert lock(changed_chain) == before
    assert changed_chain.prefect is not None
    # other files use the server too
    name = re.search(r"flow run '([^']+)' for flow 'pipeline'", output)
    assert name is not None, output
    assert flow_runs(changed_chain.prefect, "pipeline")[name[1]] == "COMPLETED"


@pytest.mark.long
def test_the_flow_gives_the_lock_file_of_a_repro_by_hand(changed_chain: Project) -> None:
    params = changed_chain.root / "params.yaml"
    before = params.read_text()
    try:
        output = changed_chain.run(sys.executable, "-c", CHANGED)
        assert [
            line.split("'")[1] for line in output.splitlines() if "Running stage '" in line
        ] == ["report"]
        assert read_yaml(params)["report"]["dialogues"] == 3
        by_flow = lock(changed_chain)
        client = client_of(changed_chain.root)
        experiment = client.get_experiment_by_name("rlhf-tiny")
        assert experiment is not None
        query = "tags.`rlhf.execution` LIKE 'pipeline-%' and tags.`rlhf.role` = 'execution'"
        (parent,) = client.search_runs([experiment.experiment_id], query)
        rate = json.loads(Workspace(changed_chain.root).metrics("evaluate").read_text())["win_rate"]
        assert (
            parent.data.metrics["evaluate/win_rate"] == rate
        )  # also of stages that had nothing to do
        assert "dvc.lock" in [item.path for item in client.list_artifacts(parent.info.run_id)]
        changed_chain.repro("--force", "--single-item", "report")
        assert lock(changed_chain) == by_flow
    finally:
        params.write_text(before)
        output = changed_chain.repro()
    assert changed_chain.ran(output) == []
    assert output.count("is cached - skipping run") == 1


def test_settings_that_a_stage_would_refuse_fail_the_flow_at_once(changed_chain: Project) -> None:
    params = changed_chain.root / "params.yaml"
    before = params.read_text()
    params.write_text(before + "colour: red\n")
    try:
        output = changed_chain.run(*PIPELINE, code=1)
    finally:
        params.write_text(before)
    assert "params.yaml: colour: unknown key" in output
    assert "dvc repro ended" not in output


@pytest.mark.long
def test_an_experiment_of_dvc_is_kept_beside_the_workspace(changed_chain: Project) -> None:
    before = (changed_chain.root / "params.yaml").read_text()
    output = changed_chain.run("dvc", "exp", "run", "--name", "shorter", "-S", "report.dialogues=2")
    assert changed_chain.ran(output) == ["report"]
    shown = json.loads(changed_chain.run("dvc", "exp", "show", "--json"))
    names = [
        row["name"]
        for state in shown
        for found in state["experiments"] or []
        for row in found["revs"]
    ]
    assert "shorter" in names
    (changed_chain.root / "params.yaml").write_text(before)
    changed_chain.repro()


@pytest.mark.long
def test_a_queued_experiment_runs_beside_the_workspace_and_is_recorded_in_it(
    changed_chain: Project,
) -> None:
    # an experiment is compared with the commit, which is to hold dvc.lock
    changed_chain.commit()
    page = Workspace(changed_chain.root).report
    before = page.read_bytes()
    # a value that no test above had: DVC would take the report out of its run cache
    changed_chain.run(
        "dvc", "exp", "run", "--queue", "--name", "queued", "-S", "report.dialogues=5"
    )
    changed_chain.run("dvc", "queue", "start")
    # its worker ends by itself once the queue is empty
    wait_until(
        lambda: "Success" in changed_chain.run("dvc", "queue", "status"), "it did not succeed"
    )
    log = changed_chain.run("dvc", "queue", "logs", "queued")
    assert changed_chain.ran(log) == ["report"], log
    assert page.read_bytes() == before
    assert read_yaml(changed_chain.root / "params.yaml")["report"]["dialogues"] != 5
    run = newest(client_of(changed_chain.root), "report")
    assert run.info.status == "FINISHED" and run.data.params["report.dialogues"] == "5"

    difference = json.loads(changed_chain.run("dvc", "exp", "diff", "HEAD", "queued", "--json"))
    assert difference["params"]["params.yaml"]["report.dialogues"]["new"] == 5
    changed_chain.run("dvc", "exp", "apply", "queued")
    assert read_yaml(changed_chain.root / "params.yaml")["report"]["dialogues"] == 5
    assert page.read_bytes() != before
