"""Nothing that a test starts phones home or writes its records into the repository."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.project_copy import Project, copy_project

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models are tiny, and the tests share the cores
# A script that starts pytest with `&` has it ignored, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "RLHF_EXECUTION"):
    os.environ.pop(name, None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under xdist a file's tests share a process and its fixtures; all that need the finished chain share one chain."""
    for item in items:
        needs_chain = "chain" in getattr(item, "fixturenames", ())
        item.add_marker(pytest.mark.xdist_group("chain" if needs_chain else str(item.path)))


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
