"""Two clones in different folders, with homes of their own: one sends a stage, the other runs it.

They share a Prefect server, an MLflow server, git's origin and DVC's remote, and nothing else.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from rlhf.common.yaml import read_yaml
from tasks.server import free_port
from tests.project_copy import Project
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

    def lock(self) -> dict:
        return read_yaml(self.project.root / "dvc.lock")["stages"]


@pytest.fixture(scope="module")
def clones(
    _chain_folder: Path, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Clone, Clone]]:
    """The caller's, which has the finished chain, and the worker's, which has nothing but the code."""
    base = tmp_path_factory.mktemp("hosts")
    origin, remote = base / "origin.git", base / "remote"
    caller_root = base / "caller" / "work" / "rlhf"
    shutil.copytree(_chain_folder / "copy", caller_root, symlinks=True)
    mlflow, address = start_mlflow(base)
    caller = clone_at(caller_root, base / "caller" / "home", prefect_server, address)
    caller.run("dvc", "remote", "add", "--default", "shared", str(remote))
    caller.project.commit()
    caller.run("git", "init", "--quiet", "--bare", str(origin))
    caller.run("git", "remote", "add", "origin", str(origin))
    caller.run("git", "push", "--quiet", "origin", "HEAD:main")

    worker_root = base / "worker" / "elsewhere"
    caller.run("git", "clone", "--quiet", "--branch", "main", str(origin), str(worker_root))
    worker = clone_at(worker_root, base / "worker" / "home", prefect_server, address)
    yield caller, worker
    for clone in (caller, worker):
        kill_below(clone.project.root)
    os.killpg(mlflow.pid, signal.SIGKILL)
    mlflow.wait()


def clone_at(root: Path, home: Path, prefect: str, mlflow: str) -> Clone:
    home.mkdir(parents=True, exist_ok=True)
    own = {"HOME": str(home), "PREFECT_HOME": str(home / ".prefect"), "MLFLOW_TRACKING_URI": mlflow}
    return Clone(Project(root, prefect), own)


def start_mlflow(folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """A server with its own store of artifacts, which it hands out itself."""
    address = f"http://127.0.0.1:{free_port(0)}"
    words = ["server", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    words += ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1"]
    words += ["--host", "127.0.0.1", "--port", address.rpartition(":")[2]]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        cwd=folder,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def answers() -> bool:
        assert server.poll() is None
        try:
            return httpx.get(f"{address}/health", timeout=5, trust_env=False).text == "OK"
        except httpx.HTTPError:
            return False

    wait_until(answers, "MLflow does not start")
    return server, address


def test_a_stage_elsewhere_leaves_the_lock_file_of_one_run_here(
    clones: tuple[Clone, Clone],
) -> None:
    caller, worker = clones
    before = caller.lock()
    pool = worker.start(sys.executable, "-m", "flows.elsewhere", "--pool", POOL)
    wait_until(lambda: processes_below(worker.project.root), "the worker does not start")
    change = ("--set", "sft.epochs=2.0")
    output = caller.run(
        sys.executable, "-m", "flows.pipeline", "sft", "--pool", f"sft={POOL}", *change
    )
    assert f"sft goes to work pool {POOL}" in output
    assert "Running stage 'sft'" not in output
    sent = caller.lock()
    assert sent["sft"] != before["sft"]
    assert sent["prepare"] == before["prepare"]
    # its weights are here, and DVC has nothing left to do
    assert caller.project.ran(caller.run("dvc", "repro", "sft")) == []
    by_hand = caller.run("dvc", "repro", "--force", "--single-item", "sft")
    assert caller.project.ran(by_hand) == ["sft"]
    assert without_times(caller.lock()["sft"]) == without_times(sent["sft"])
    pool.terminate()
    pool.communicate(timeout=SECONDS)


def without_times(entry: dict) -> dict:
    """An entry of dvc.lock but for the summary, which tells how long the stage took."""
    outs = [out for out in entry["outs"] if out["path"] != "metrics/sft.json"]
    assert len(outs) == len(entry["outs"]) - 1
    return entry | {"outs": outs}


def test_code_that_is_not_committed_goes_nowhere(clones: tuple[Clone, Clone]) -> None:
    caller, _ = clones
    readme = caller.project.root / "README.md"
    before = readme.read_text()
    readme.write_text(before + "changed\n")
    command = (sys.executable, "-m", "flows.pipeline", "sft", "--pool", f"sft={POOL}")
    output = caller.run(*command, "--set", "sft.epochs=3.0", code=1)
    readme.write_text(before)
    assert "README.md: changed since the last commit" in output
