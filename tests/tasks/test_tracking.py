import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from rlhf.common.address import without_credentials
from rlhf.workspace import Workspace
from tasks.errors import TrackingError
from tasks.lineage import Lineage
from tasks.recording import record_execution, record_results
from tasks.tracking import (
    TrackedRun,
    best_effort,
    client_of,
    close_run,
    metrics_of,
    open_run,
)

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
    run = opened(records, "sft", "d")
    workspace = Workspace(records)
    workspace.metrics("sft").parent.mkdir(exist_ok=True)
    workspace.metrics("sft").write_text(
        json.dumps({"train_loss": 2.5, "collapsed": False, "note": "text", "none": None})
    )
    workspace.metrics("fetch").write_text(json.dumps({"bytes": 7}))
    workspace.samples("sft").write_text(
        '{"step": 0, "response": "<b>"}\n{"step": 1, "response": "æ"}\n'
    )
    warnings: list[str] = []
    record_results(run, [workspace.samples("sft")], warnings.append)
    record_execution(records, "experiment", "d")
    client = reader(records)
    child, parent = client.get_run(run.run_id), client.get_run(run.parent_id)
    assert child.data.metrics == {"summary.train_loss": 2.5, "summary.collapsed": 0.0}
    assert child.data.tags["summary.note"] == "text"
    assert parent.data.metrics == {"sft.train_loss": 2.5, "sft.collapsed": 0.0, "fetch.bytes": 7.0}
    table = json.loads(
        Path(client.download_artifacts(run.run_id, "tables/sft_samples.json")).read_text()
    )
    assert table == {"columns": ["step", "response"], "data": [[0, "<b>"], [1, "æ"]]}
    assert warnings == []


def test_only_numbers_become_metrics() -> None:
    metrics = metrics_of(
        {"step": 3, "a": 1, "b": True, "c": "text", "d": None, "e": 0.5}, 3, prefix="x."
    )
    assert {(metric.key, metric.value, metric.step) for metric in metrics} == {
        ("x.a", 1, 3),
        ("x.b", 1, 3),
        ("x.e", 0.5, 3),
    }
