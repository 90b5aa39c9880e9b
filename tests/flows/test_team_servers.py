"""A stage on a team's servers: PostgreSQL, an S3-compatible store, MLflow and Prefect, each with a password."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rlhf.common.files import tree_sha256
from tasks.tracking import client_of
from tests.flows.records import EXPERIMENT, newest
from tests.project_copy import Project
from tests.team_servers import (
    DVC_BUCKET,
    MLFLOW_BUCKET,
    PASSWORD,
    SECRETS,
    USER,
    Team,
    postgres_programs,
    team_servers,
)
from tests.waiting import SECONDS, wait_until

pytestmark = pytest.mark.skipif(
    postgres_programs() is None,
    reason="PostgreSQL is not installed (Debian: apt-get install postgresql)",
)
LOAD = f"""
import sys
# as where this project is not installed
sys.modules["rlhf"] = sys.modules["tasks"] = None
import mlflow, pandas
model = mlflow.pyfunc.load_model("models:/{EXPERIMENT}-sft@current")
print(len(model.predict(pandas.DataFrame({{"prompt": ["Hi"]}}), params={{"max_new_tokens": 4}})))
"""
# of DVC's cache and of git: bytes that no address is written into
UNREAD = (".git", "cache")


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    with team_servers(tmp_path_factory.mktemp("team")) as servers:
        yield servers


@pytest.fixture(scope="module")
def trained(team: Team, changed_chain: Project) -> tuple[Project, str]:
    """A project of which a member of the team has run the stage sft, and what that printed."""
    # git does not see the key, the store's address is for all
    store = {"endpointurl": team.store.address, **_keys(team)}
    changed_chain.run("dvc", "remote", "add", "--default", "shared", f"s3://{DVC_BUCKET}/rlhf")
    for name, value in store.items():
        where = ["--local"] if "key" in name else []
        changed_chain.run("dvc", "remote", "modify", *where, "shared", name, value)
    output = changed_chain.repro("--force", "--single-item", "sft", **team.environment)
    return changed_chain, output


def _keys(team: Team) -> dict[str, str]:
    names = {"AWS_ACCESS_KEY_ID": "access_key_id", "AWS_SECRET_ACCESS_KEY": "secret_access_key"}
    return {name: team.store.environment[variable] for variable, name in names.items()}


def test_nobody_without_a_password_is_let_in(team: Team) -> None:
    experiments = f"{team.mlflow}/api/2.0/mlflow/experiments/get?experiment_id=0"
    runs = f"{team.prefect}/flow_runs/filter"
    for auth, code in ((None, 401), ((USER, "another"), 401), ((USER, PASSWORD), 200)):
        reply = httpx.get(experiments, auth=auth, timeout=SECONDS, trust_env=False)
        assert reply.status_code == code
        reply = httpx.post(runs, json={}, auth=auth, timeout=SECONDS, trust_env=False)
        assert reply.status_code == code


@pytest.mark.long
def test_a_schedule_makes_runs_on_postgresql_too(team: Team) -> None:
    def post(path: str, content: Any) -> Any:
        url, auth = f"{team.prefect}/{path}", (USER, PASSWORD)
        reply = httpx.post(url, json=content, auth=auth, timeout=SECONDS, trust_env=False)
        assert reply.is_success, reply.text
        return reply.json()

    hourly = {"active": True, "schedule": {"interval": 3600.0}}
    flow = post("flows/", {"name": "nightly"})["id"]
    deployment = post("deployments/", {"name": "hourly", "flow_id": flow, "schedules": [hourly]})
    wanted = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}}
    # nobody serves them: they wait
    wait_until(lambda: post("flow_runs/filter", wanted), "the schedule makes no run")
    assert all(run["auto_scheduled"] for run in post("flow_runs/filter", wanted))


@pytest.mark.long
def test_the_records_of_a_stage_are_in_postgresql_and_the_store(
    team: Team, trained: tuple[Project, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, output = trained
    assert "warning" not in output.lower()
    for name, value in team.environment.items():
        monkeypatch.setenv(name, value)
    run = newest(client_of(project.root), "sft")
    assert run.info.status == "FINISHED"
    key = run.data.tags["rlhf.execution"]
    query = "SELECT state_type FROM flow_run WHERE name = 'sft-{}'"
    assert team.rows("prefect", query.format(key)) == [("COMPLETED",)]
    (count,) = team.rows(
        "mlflow", f"SELECT count(*) FROM metrics WHERE run_uuid = '{run.info.run_id}'"
    )
    assert count[0] > 10
    stored = team.store.keys(MLFLOW_BUCKET)
    assert any(name.endswith("metrics/sft.jsonl") for name in stored)
    assert any(name.endswith("model.safetensors") for name in stored)
    # the client sent them to MLflow's server
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")


@pytest.mark.long
def test_a_member_who_has_only_the_address_loads_the_model(
    team: Team, trained: tuple[Project, str], tmp_path: Path
) -> None:
    secret = ("AWS_", "MLFLOW_", "PREFECT_", "PYTHONPATH")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(secret)}
    environment["MLFLOW_TRACKING_URI"] = team.environment["MLFLOW_TRACKING_URI"]
    command = [sys.executable, "-P", "-c", LOAD]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "1"


@pytest.mark.long
def test_a_password_is_nowhere(
    team: Team, trained: tuple[Project, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, output = trained
    for name, value in team.environment.items():
        monkeypatch.setenv(name, value)
    seen = {"the output": output, "the command lines of the servers": "\n".join(team.titles())}
    client = client_of(project.root)
    runs = client.search_runs([newest(client, "sft").info.experiment_id])
    seen["MLflow's runs"] = json.dumps([run.to_dictionary() for run in runs])
    for kind in ("logs", "artifacts", "flow_runs", "task_runs"):
        reply = httpx.post(
            f"{team.prefect}/{kind}/filter",
            json={},
            auth=(USER, PASSWORD),
            timeout=SECONDS,
            trust_env=False,
        )
        assert reply.json(), kind
        seen[f"Prefect's {kind}"] = reply.text
    for path in [*project.root.rglob("*"), *team.logs.rglob("*.log")]:
        # where DVC was told to keep the key
        kept = path.parts[-2:] == (".dvc", "config.local")
        if path.is_file() and not kept and not set(path.parts).intersection(UNREAD):
            seen[str(path)] = path.read_bytes().decode(errors="replace")
    assert len(seen) > 50
    assert [(where, word) for where, text in seen.items() for word in SECRETS if word in text] == []
    told = project.run("git", "status", "--porcelain", "--ignored=no", "--untracked-files=all")
    assert "config.local" not in told


@pytest.mark.long
@pytest.mark.parametrize("remote", ["shared", "folder"])
def test_models_and_data_come_back_from_a_remote(
    team: Team, trained: tuple[Project, str], tmp_path: Path, remote: str
) -> None:
    project, _ = trained
    if remote == "folder":
        project.run("dvc", "remote", "add", remote, str(tmp_path / "remote"))
    model = project.root / "models" / "sft"
    before = tree_sha256(model)
    project.run("dvc", "push", "--remote", remote, "sft", "prepare")
    shutil.rmtree(project.root / ".dvc" / "cache" / "files")
    shutil.rmtree(model)
    shutil.rmtree(project.root / "data" / "prepared")
    assert "deleted" in project.run("dvc", "status", "sft")
    if remote == "shared":
        # the default remote: that of a member whose cache has never had this model
        told = project.run("rlhf", "weights", "sft@current", **team.environment)
        assert "has its weights now" in told
    project.run("dvc", "pull", "--remote", remote, "sft", "prepare")
    assert tree_sha256(model) == before
    assert list((project.root / "data" / "prepared").glob("*.parquet"))
