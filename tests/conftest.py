"""Nothing that a test starts phones home or writes its records into the repository."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.project_copy import Project, copy_project

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and the tests share the cores
# A script that starts pytest with `&` has it ignored, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "RLHF_EXECUTION"):
    os.environ.pop(name, None)


CHAIN_FILES = ("test_chain.py", "test_pipeline.py", "test_interrupted_chain.py")


class FileScheduling(LoadScopeScheduling):
    """A file's tests share a process and its fixtures; the files that need the finished chain share one chain."""

    def _split_scope(self, nodeid: str) -> str:
        path = Path(nodeid.split("::", 1)[0])
        return "chain" if path.name in CHAIN_FILES else str(path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling:
    """Take the place of `--dist loadgroup`, whose marks xdist 3.8 no longer passes on under pytest 9.2."""
    return FileScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def _records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    yield


@pytest.fixture(scope="session")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A clone of the project with the tiny preset in which the whole chain has run once, by `dvc repro`."""
    project = copy_project(tmp_path_factory.mktemp("clone") / "rlhf", "tiny")
    project.repro()
    return project


@pytest.fixture
def repository(tmp_path: Path) -> Project:
    """A git and DVC repository with two quick stages and nothing of the project in it."""
    return Project.small(tmp_path / "repository")
