import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient

from rlhf.common.address import without_credentials
from rlhf.workspace import Workspace
from tasks.errors import TrackingError
from tasks.lineage import Lineage
from tasks.recording import record_execution, record_results, system_metrics
from tasks.tracking import (
    TrackedRun,
    best_effort,
    client_of,
    close_run,
    metrics_of,
    open_run,
)
from tests.waiting import wait_until

LINEAGE = Lineage("c0ffee", False, "5e77", {"models/base": "ba5e.dir"}, {"sft.epochs": 1.0})
MANY = {f"section.key{number}": number for number in range(230)}


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of its own database; making one costs seconds."""
    root = tmp_path_factory.mktemp("workspace")
    (root / "params.yaml").write_text("seed: 1\n")
    (root / "dvc.lock").write_text("stages: {}\n")
    return root


def opened(root: Path, stage: str, execution: str) -> TrackedRun:
    return open_run(root, stage, "experiment", execution, LINEAGE, MANY)


def reader(root: Path) -> MlflowClient:
    return client_of(root)


def test_stages_of_one_execution_share_a_parent_that_knows_all_settings(records: Path) -> None:
    first, second, other = (
        opened(records, "sft", "a"),
        opened(records, "reward", "a"),
        opened(records, "sft", "b"),
    )
    assert first.parent_id == second.parent_id != other.parent_id
    client = reader(records)
    parent = client.get_run(first.parent_id)
    assert len(parent.data.params) == len(MANY)
    child = client.get_run(first.run_id)
    assert child.data.params == {"sft.epochs": "1.0"}
    assert child.data.tags["mlflow.parentRunId"] == first.parent_id
    # by these names users search
    assert child.data.tags["rlhf.stage"] == "sft"
    assert child.data.tags["rlhf.execution"] == parent.data.tags["rlhf.execution"] == "a"
    assert parent.data.tags["rlhf.role"] == "execution"
    assert child.data.tags["dvc.dep.models/base"] == "ba5e.dir"
    assert child.data.tags["git.commit"] == "c0ffee"
    assert [item.path for item in client.list_artifacts(first.parent_id)] == ["params.yaml"]
    assert [item.path for item in client.list_artifacts(first.run_id)] == ["lineage.json"]


def test_a_run_ends_with_its_status_and_why(records: Path) -> None:
    run = opened(records, "ppo", "c")
    client = reader(records)
    assert (
        client.get_run(run.run_id).info.status
        == client.get_run(run.parent_id).info.status
        == "RUNNING"
    )
    close_run(run, "FAILED", "step 3: not finite " + "x" * 10000)
    for run_id in (run.run_id, run.parent_id):
        found = client.get_run(run_id)
        assert found.info.status == "FAILED"
        assert found.data.tags["rlhf.message"].startswith("step 3: not finite")
    opened(records, "ppo", "c")  # another try in the same execution
    assert client.get_run(run.parent_id).info.status == "RUNNING"


def test_an_unreachable_server_stops_a_stage_soon_and_clearly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unanswered: str
) -> None:
    address = f"http://{unanswered}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(TrackingError, match=f"MLflow at {address} cannot be used"):
        opened(tmp_path, "sft", "a")
    warnings: list[str] = []
    with best_effort("the last steps", warnings.append):
        client_of(tmp_path).set_tag("run", "key", "value")
    assert warnings[0].startswith("MLflow: the last steps not recorded")


def test_a_password_in_an_address_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unanswered: str
) -> None:
    assert (
        without_credentials("at https://ann:s3cret@host:1/x and sqlite:////a/b.db")
        == "at https://host:1/x and sqlite:////a/b.db"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@{unanswered}")
    with pytest.raises(
        TrackingError, match=f"MLflow at http://{unanswered} cannot be used"
    ) as caught:
        opened(tmp_path, "sft", "a")
    assert "s3cret" not in str(caught.value)


def test_a_deleted_experiment_is_told_with_its_cure(records: Path) -> None:
    client = reader(records)
    number = client.create_experiment("given up")
    client.delete_experiment(number)
    with pytest.raises(
        TrackingError, match=rf"'given up' was deleted: .*restore --experiment-id {number}"
    ):
        open_run(records, "sft", "given up", "e", LINEAGE, MANY)


def test_results_go_to_the_stage_and_its_parent(records: Path) -> None:
    run = opened(records, "evaluate", "d")
    workspace = Workspace(records)
    workspace.metrics("evaluate").parent.mkdir(exist_ok=True)
    summary = {"win_rate": 0.6, "win": 0.5, "judge": "gold", "count": 141, "lose": None}
    workspace.metrics("evaluate").write_text(json.dumps(summary))
    rates = {"win_rate": 0.6, "win_rate_low": 0.51, "win_rate_high": 0.69}
    names = {"challenger": "policy", "baseline": "sft", "judge": "gold"}
    comparison = {**names, "metrics": rates, "kinds": {}}
    workspace.details("evaluate").write_text(
        json.dumps({"prompts": 141, "comparisons": [comparison]})
    )
    workspace.metrics("fetch").write_text(json.dumps({"bytes": 7, "rows": 3}))
    workspace.report.parent.mkdir(exist_ok=True)
    workspace.report.write_text("<!doctype html>")
    workspace.samples("ppo").write_text(
        '{"step": 0, "response": "<b>"}\n{"step": 1, "response": "æ"}\n'
    )
    warnings: list[str] = []
    record_results(run, [workspace.samples("ppo"), workspace.report], warnings.append)
    record_execution(records, "experiment", "d")
    client = reader(records)
    child, parent = client.get_run(run.run_id), client.get_run(run.parent_id)
    # the key figures; counts and all the rest are in the file
    assert child.data.metrics == {"summary/win_rate": 0.6, "summary/win": 0.5}
    assert child.data.tags["summary.judge"] == "gold"
    assert (
        json.loads(Path(client.download_artifacts(run.run_id, "metrics/evaluate.json")).read_text())
        == summary
    )
    assert parent.data.metrics == {"evaluate/win_rate": 0.6, "evaluate/win": 0.5, "fetch/bytes": 7}
    # which is better is told where one looks first, with the page
    note = parent.data.tags["mlflow.note.content"]
    assert "| policy over sft, by gold | 0.600 [0.510, 0.690] |  |" in note
    assert "index.html" in [item.path for item in client.list_artifacts(run.parent_id)]
    table = json.loads(
        Path(client.download_artifacts(run.run_id, "tables/ppo_samples.json")).read_text()
    )
    assert table == {"columns": ["step", "response"], "data": [[0, "<b>"], [1, "æ"]]}
    assert warnings == []


def test_a_run_tells_its_source_and_the_data_that_it_reads(records: Path) -> None:
    table = records / "data" / "prepared" / "sft.parquet"
    table.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"ids": [[1], [2, 3]]}).to_parquet(table)
    lineage = replace(LINEAGE, dependencies={"data/prepared/sft.parquet": "ab1e", "rlhf": "c.dir"})
    run = open_run(records, "sft", "experiment", "datasets", lineage, {})
    found = reader(records).get_run(run.run_id)
    tags = found.data.tags
    assert tags["mlflow.source.name"] == "python -m flows.sft"
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    (dataset,) = [item.dataset for item in found.inputs.dataset_inputs]
    assert (dataset.name, dataset.digest) == ("sft", "ab1e")
    assert json.loads(dataset.source)["path"] == "data/prepared/sft.parquet"
    assert json.loads(dataset.profile) == {"num_rows": 2, "num_columns": 1}
    # of an arm, the module that runs it
    arm = open_run(records, "arm-vanilla", "experiment", "datasets", lineage, {})
    assert (
        reader(records).get_run(arm.run_id).data.tags["mlflow.source.name"] == "python -m flows.arm"
    )


def test_the_load_of_the_machine_is_logged_where_it_is_asked_for(
    records: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    client = reader(records)

    def logged(execution: str) -> list[str]:
        run = opened(records, "sft", execution)
        with system_metrics(run):
            wait_until(lambda: not wanted or names(run), "no load is logged")
        return names(run)

    def names(run: TrackedRun) -> list[str]:
        metrics = client.get_run(run.run_id).data.metrics
        return [name for name in metrics if name.startswith("system/")]

    wanted = False
    assert logged("unasked") == []
    wanted = True
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    assert "system/cpu_utilization_percentage" in logged("asked")


def test_only_numbers_become_metrics() -> None:
    row = {"step": 3, "x/a": 1, "b": True, "c": "text", "d": None, "e[0]": 0.5}
    assert {(metric.key, metric.value, metric.step) for metric in metrics_of(row, 3)} == {
        ("x/a", 1, 3),
        ("b", 1, 3),
        ("e_0_", 0.5, 3),
    }
