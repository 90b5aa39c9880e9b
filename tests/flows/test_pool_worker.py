"""Two clones in different folders, with homes of their own: one sends a stage, the other runs it.

They share a Prefect server, an MLflow server, git's origin and DVC's remote, and nothing else.
"""

import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from rlhf.workspace import Workspace
from tests.flows.records import EXPERIMENT
from tests.prefect_page import Page
from tests.project_copy import Project
from tests.team_servers import free_port, mlflow_server, wait_for_mlflow
from tests.waiting import SECONDS, kill_below, processes_below, wait_until

POOL = "gpu"


@dataclass(frozen=True)
class Clone:
    """A clone and the environment of its user."""

    project: Project
    environment: dict[str, str]

    def run(self, *command: str, code: int = 0) -> str:
        return self.project.run(*command, code=code, **self.environment)

    def start(self, *command: str) -> subprocess.Popen[str]:
        return self.project.start(*command, **self.environment)

    def lock_file(self) -> str:
        return (self.project.root / "dvc.lock").read_text()


@pytest.fixture(scope="module")
def caller(
    _chain_folder: Path, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Clone]:
    """The finished chain, with an origin of git and a remote of DVC, and records of its own."""
    base = tmp_path_factory.mktemp("hosts")
    root, origin = base / "caller" / "work" / "rlhf", base / "origin.git"
    shutil.copytree(_chain_folder / "copy", root, symlinks=True)
    caller = clone_at(root, base / "caller" / "home", prefect_server)
    caller.run("dvc", "remote", "add", "--default", "shared", str(base / "remote"))
    caller.project.commit()
    caller.run("git", "init", "--quiet", "--bare", str(origin))
    caller.run("git", "remote", "add", "origin", str(origin))
    caller.run("git", "push", "--quiet", "origin", "HEAD:main")
    yield caller
    kill_below(root)


@pytest.fixture(scope="module")
def clones(
    caller: Clone, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Clone, Clone]]:
    """The caller's, and the worker's, which has nothing but the code; both record on one MLflow server."""
    base = tmp_path_factory.mktemp("worker")
    port = free_port()
    # with its own store of artifacts, which it hands out itself
    store = ("--backend-store-uri", f"sqlite:///{base}/mlflow.db")
    store += ("--artifacts-destination", str(base / "artifacts"))
    root = base / "elsewhere"
    origin = caller.run("git", "remote", "get-url", "origin").strip()
    caller.run("git", "clone", "--quiet", "--branch", "main", origin, str(root))
    with mlflow_server(base, port, *store) as server:
        wait_for_mlflow(server, port)
        shared = {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"}
        worker = clone_at(root, base / "home", prefect_server, **shared)
        yield Clone(caller.project, caller.environment | shared), worker
        for clone in (caller, worker):
            kill_below(clone.project.root)


def clone_at(root: Path, home: Path, prefect: str, **shared: str) -> Clone:
    home.mkdir(parents=True, exist_ok=True)
    own = {"HOME": str(home), "PREFECT_HOME": str(home / ".prefect")}
    return Clone(Project(root, prefect), own | shared)


@contextmanager
def a_worker(clone: Clone) -> Iterator[subprocess.Popen[str]]:
    """A worker of the pool in the clone, until the end of the block."""
    process = clone.start(sys.executable, "-m", "flows.pool_worker", POOL)
    wait_until(lambda: processes_below(clone.project.root), "the worker does not start")
    try:
        yield process
    finally:
        kill_below(clone.project.root)
        process.communicate()


@contextmanager
def served(clone: Clone, page: Page) -> Iterator[dict[str, Any]]:
    """The clone's deployment `pipeline`, served until the end of the block."""
    process = clone.start(sys.executable, "-m", "flows.deployments")
    folder = str(clone.project.root)

    def pipeline() -> dict[str, Any] | None:
        for name, one in page.deployments().items():
            here = any(tag.endswith(folder) for tag in one["tags"])
            if here and name.startswith("pipeline") and one["status"] == "READY":
                return one
        return None

    wait_until(lambda: pipeline() is not None, "nobody serves the pipeline")
    try:
        found = pipeline()
        assert found is not None
        yield found
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


def sending_sft(*settings: str) -> tuple[str, ...]:
    changes = [word for setting in settings for word in ("--set", setting)]
    return (sys.executable, "-m", "flows.pipeline", "sft", "--pool", f"sft={POOL}", *changes)


def checkpoints(clone: Clone) -> list[Path]:
    return list((Workspace(clone.project.root).checkpoints / "sft").glob("*/*"))


def is_training(clone: Clone) -> bool:
    return any("rlhf.commands.worker" in words(one) for one in processes_below(clone.project.root))


def words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return process.cmdline()
    return []


@pytest.mark.long
def test_a_stage_in_a_pool_leaves_the_lock_file_of_one_run_here(
    clones: tuple[Clone, Clone],
) -> None:
    caller, worker = clones
    settings = worker.project.root / "params.yaml"
    before = settings.read_text()
    with a_worker(worker):
        output = caller.run(*sending_sft("sft.epochs=2.0"))
    assert f"sft goes to work pool {POOL}" in output
    # there, and its log is said here
    assert output.count("Running stage 'sft'") == 1
    assert f"{POOL}: Running stage 'sft'" in output
    sent = caller.lock_file()
    # its weights are here, and DVC has nothing left to do
    assert caller.project.ran(caller.run("dvc", "repro", "sft")) == []
    by_hand = caller.run("dvc", "repro", "--force", "--single-item", "sft")
    assert caller.project.ran(by_hand) == ["sft"]
    assert without_times(caller.lock_file()) == without_times(sent)
    # what the worker's clone had is kept
    assert before in [path.read_text() for path in worker.project.root.glob("logs/params-*.yaml")]


def without_times(lock: str) -> list[str]:
    """The lines of a dvc.lock but for the hash and size of the summary, which tells how long a stage took."""
    lines = lock.splitlines()
    place = lines.index("    - path: metrics/sft.json")
    return lines[: place + 1] + lines[place + 4 :]


@pytest.mark.long
def test_its_run_and_its_model_are_in_the_mlflow_of_both(clones: tuple[Clone, Clone]) -> None:
    """After the test above: the worker's version is the only one, as the run by hand gave the same weights."""
    caller, _ = clones
    client = MlflowClient(caller.environment["MLFLOW_TRACKING_URI"])
    (version,) = client.search_model_versions(f"name='{EXPERIMENT}-sft'")
    run = client.get_run(str(version.run_id))
    assert run.info.status == "FINISHED"
    assert run.data.params["sft.epochs"] == "2.0"
    logged = str(version.source).removeprefix("models:/")
    artifacts = {one.path for one in client.list_logged_model_artifacts(logged)}
    assert "MLmodel" in artifacts


@pytest.mark.long
def test_a_run_on_a_schedule_through_the_pool_does_too(
    clones: tuple[Clone, Clone], prefect_server: str
) -> None:
    caller, worker = clones
    page = Page(prefect_server.removesuffix("/api"))
    soon = datetime.now(UTC) + timedelta(seconds=60)
    daily = {"interval": 24 * 3600.0, "anchor_date": soon.isoformat()}
    sent_there = {"targets": ["sft"], "pools": {"sft": POOL}, "overrides": {"sft.epochs": 2.5}}
    with a_worker(worker), served(caller, page) as pipeline:
        path = f"/deployments/{pipeline['id']}/schedules"
        page.post(path, [{"active": True, "schedule": daily, "parameters": sent_there}])
        run = wait_for_scheduled_run(page, pipeline["id"])
    assert run["state_type"] == "COMPLETED"
    logs = page.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}})
    assert f"sft goes to work pool {POOL}" in [line["message"] for line in logs]
    scheduled = caller.lock_file()
    assert "epochs: 2.5" in scheduled
    assert caller.project.ran(caller.run("dvc", "repro", "sft")) == []
    by_hand = caller.run("dvc", "repro", "--force", "--single-item", "sft")
    assert caller.project.ran(by_hand) == ["sft"]
    assert without_times(caller.lock_file()) == without_times(scheduled)


def wait_for_scheduled_run(page: Page, deployment: str) -> dict[str, Any]:
    """The first run of the deployment's schedule, once it has ended."""

    def first() -> dict[str, Any]:
        runs = page.post(
            "/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment]}}}
        )
        due = [run for run in runs if run["auto_scheduled"]]
        return min(due, key=lambda run: run["expected_start_time"]) if due else {}

    waiting = ("SCHEDULED", "PENDING", "RUNNING", None)
    wait_until(lambda: first().get("state_type") not in waiting, "no run of the schedule ends")
    return first()


@pytest.mark.long
def test_what_is_not_committed_goes_nowhere(caller: Clone) -> None:
    new = caller.project.root / "rlhf" / "rewards" / "mine.py"
    new.touch()
    lock = caller.lock_file()
    output = caller.run(*sending_sft("sft.epochs=3.0"), code=1)
    new.unlink()
    assert "rlhf/rewards/mine.py: not as in the last commit" in output
    assert caller.lock_file() == lock


def test_a_pool_that_nobody_serves_is_named_before_anything_runs(caller: Clone) -> None:
    params = caller.project.root / "params.yaml"
    before = params.read_text()
    command = (sys.executable, "-m", "flows.pipeline", "sft", "--pool", "sft=gqu")
    # which all stages read
    output = caller.run(*command, "--set", "seed=2", code=1)
    params.write_text(before)
    assert "work pool gqu: no worker was ever started for it at http://127.0.0.1" in output
    assert "Running stage" not in output


@pytest.mark.long
def test_the_stage_of_a_dead_worker_is_taken_up_from_its_checkpoint(
    clones: tuple[Clone, Clone],
) -> None:
    caller, worker = clones
    shutil.rmtree(Workspace(worker.project.root).checkpoints, ignore_errors=True)
    with a_worker(worker):
        # more than two heartbeats, which come every 30 s
        patience = ("--worker-silence-seconds", "75")
        settings = ("sft.epochs=40.0", "sft.checkpoint_every=5")
        run = caller.start(*sending_sft(*settings), *patience)
        wait_until(lambda: checkpoints(worker), "no checkpoint")
    assert run.poll() is None
    with a_worker(worker):
        output, _ = run.communicate(timeout=SECONDS)
    assert run.returncode == 0, output
    assert "its worker is silent; another one takes it up" in output
    assert "resum" in (worker.project.root / "logs" / "sft.log").read_text()
    assert caller.project.ran(caller.run("dvc", "repro", "sft")) == []


@pytest.mark.long
def test_who_cancels_the_pipeline_ends_the_training_in_the_pool(
    clones: tuple[Clone, Clone],
) -> None:
    caller, worker = clones
    lock = caller.lock_file()
    with a_worker(worker):
        run = caller.start(*sending_sft("sft.epochs=400.0"))
        wait_until(lambda: is_training(worker), "no training")
        run.send_signal(signal.SIGTERM)
        output, _ = run.communicate(timeout=SECONDS)
        # Prefect sends itself the signal once more
        assert run.returncode == -signal.SIGTERM, output
        wait_until(lambda: not is_training(worker), "the training goes on")
    assert caller.lock_file() == lock
