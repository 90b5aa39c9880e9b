"""An MLflow server that is killed while a stage runs and started again: the run has everything, once."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from rlhf.common.yaml import parse_yaml, write_yaml
from tests.flows.records import EXPERIMENT, runs
from tests.project_copy import Project
from tests.team_servers import free_port, mlflow_server, wait_for_mlflow
from tests.waiting import SECONDS, wait_until

LOSS = "sft/train_loss"


@pytest.mark.long
def test_what_a_run_missed_is_told_when_mlflow_is_back(
    changed_chain: Project, tmp_path: Path
) -> None:
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    client = MlflowClient(tracking_uri=address, registry_uri=address)
    store = ("--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db")
    store += ("--artifacts-destination", str(tmp_path / "artifacts"))
    params = changed_chain.root / "params.yaml"
    content = parse_yaml(params.read_text(), "params.yaml")
    # long enough to lose the server in the middle
    content["sft"]["epochs"] = 30.0
    params.write_text(write_yaml(content))

    # so that each call to it is given up at once
    lost = {"MLFLOW_TRACKING_URI": address, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}

    def begun() -> bool:
        known = client.get_experiment_by_name(EXPERIMENT)
        return known is not None and any(LOSS in run.data.metrics for run in runs(client))

    with mlflow_server(tmp_path, port, *store) as server:
        wait_for_mlflow(server, port)
        stage = changed_chain.start("dvc", "repro", "sft", **lost)
        wait_until(lambda: stage.poll() is not None or begun(), "sft did not begin")
    output, _ = stage.communicate(timeout=SECONDS)
    # a stage neither fails nor hangs over its record
    assert stage.returncode == 0, output
    assert "MLflow: metrics of sft not recorded" in output and "`rlhf record`" in output
    records = list((changed_chain.root / ".pending").glob("*/record.json"))
    (run_id,) = {json.loads(record.read_text())["run"]["run_id"] for record in records}
    refused = changed_chain.run("rlhf", "record", code=1, **lost)
    assert "MLflow lacks what is kept in" in refused and "Traceback" not in refused
    assert f"MLflow at {address} does not answer" in refused
    assert all(record.exists() for record in records)

    with mlflow_server(tmp_path, port, *store) as server:
        wait_for_mlflow(server, port)
        # the next stage, whatever its own run is about
        output = changed_chain.repro(
            "--force", "--single-item", "fetch", MLFLOW_TRACKING_URI=address
        )
        assert f"MLflow: sft, run {run_id}: metrics of sft: recorded now" in output
        assert not any(record.parent.exists() for record in records)
        run = client.get_run(run_id)
        assert run.info.status == "FINISHED"
        steps = (changed_chain.root / "metrics" / "sft.jsonl").read_text().splitlines()
        rows = [json.loads(line) for line in steps]
        wanted = [(row["step"], row["train_loss"]) for row in rows if "train_loss" in row]
        held = [(one.step, one.value) for one in client.get_metric_history(run_id, LOSS)]
        assert len(wanted) > 20 and sorted(held) == wanted
        for key in run.data.metrics:
            found = [one.step for one in client.get_metric_history(run_id, key)]
            assert len(found) == len(set(found)), key
        assert any(key.startswith("summary/") for key in run.data.metrics)
        assert any(key.startswith("dvc.out.models/sft") for key in run.data.tags)
        files = [item.path for item in client.list_artifacts(run_id, "metrics")]
        assert {"metrics/sft.json", "metrics/sft.jsonl"} <= set(files)
        version = client.get_model_version_by_alias(f"{EXPERIMENT}-sft", "current")
        assert version.run_id == run_id
        logged = client.get_logged_model(version.source.removeprefix("models:/"))
        place = f"{tmp_path}/artifacts"
        weights = list(Path(place).rglob(f"{logged.model_id}/artifacts/data/sft/*.safetensors"))
        (own,) = (changed_chain.root / "models" / "sft").glob("*.safetensors")
        assert [path.read_bytes() for path in weights] == [own.read_bytes()]
        told = changed_chain.run("rlhf", "record", MLFLOW_TRACKING_URI=address)
        assert "MLflow has all" in told
