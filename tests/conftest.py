"""Nothing that a test starts phones home or writes its records into the repository."""

import logging
import os
import shutil
import signal
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

from tasks.server import shared_server
from tests.project_copy import LOOK_UPS, ONLY_LOOPBACK, Project, copy_project
from tests.waiting import kill_below

os.environ["HF_HUB_OFFLINE"] = "1"
# the models are tiny, and the tests share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A script that starts pytest with `&` has it ignored, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "RLHF_EXECUTION"):
    os.environ.pop(name, None)


# each takes a minute or more in one piece; the first has the chain made
FIRST_FILES = ("test_chain.py", "test_types.py", "test_golden.py")
# each of its tests changes a copy of its own
COPY_FOR_EACH_TEST_FILE = "test_interrupted_chain.py"


class FileScheduling(LoadScopeScheduling):
    """A file's tests share a process and its fixtures, but for those that each change a copy of the finished chain."""

    def _split_scope(self, nodeid: str) -> str:
        path = Path(nodeid.split("::", 1)[0])
        return nodeid if path.name == COPY_FOR_EACH_TEST_FILE else str(path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileScheduling:
    """Take the place of `--dist loadgroup`, whose marks xdist 3.8 no longer passes on under pytest 9.2."""
    return FileScheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first; the files that need the finished chain in the middle.

    By then it is made, and nobody waits for it; small files fill the end.
    """
    first = [item for name in FIRST_FILES for item in items if item.path.name == name]
    chain_files = {item.path for item in items if needs_chain(item)}
    others = [item for item in items if item not in first]
    on_chain = [item for item in others if item.path in chain_files]
    rest = [item for item in others if item.path not in chain_files]
    half = len(rest) // 2
    # a file stays in one piece
    while 0 < half < len(rest) and rest[half].path == rest[half - 1].path:
        half += 1
    items[:] = [*first, *rest[:half], *on_chain, *rest[half:]]


def needs_chain(item: pytest.Item) -> bool:
    """Whether a test uses the finished chain or what goes with it."""
    return "_chain_folder" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session", autouse=True)
def _records(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    yield


@pytest.fixture(autouse=True)
def _log_level() -> Iterator[None]:
    """A command that a test calls in this process sets it; the next test finds it as it was."""
    log = logging.getLogger("rlhf")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture
def without_nohup() -> Iterator[None]:
    """What a test starts heeds SIGHUP though the tests may run under nohup: only being ignored is inherited."""
    before = signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def unanswered() -> Iterator[str]:
    """An address, HOST:PORT, at which nobody answers; nobody else can listen there meanwhile."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{holder.getsockname()[1]}"


@pytest.fixture(scope="session")
def _chain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run the whole chain once for all test processes, by `dvc repro` in a clone with the tiny preset; keep a copy."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished-chain"
    with FileLock(f"{folder}.lock"):
        if not (folder / "copy").exists():
            # left by a process whose attempt failed
            for name in ("rlhf", "making"):
                shutil.rmtree(folder / name, ignore_errors=True)
            project = copy_project(folder / "rlhf", "tiny")
            # test_only_loopback.py reads what the processes of the chain asked of other machines
            watched = {
                "PYTHONPATH": f"{ONLY_LOOPBACK}{os.pathsep}{project.root}",
                "ONLY_LOOPBACK_LOG": str(folder / LOOK_UPS),
            }
            project.repro(**watched)
            # without Prefect's state: its server is still ending; the copies use one of their own
            shutil.copytree(
                project.root,
                folder / "making",
                symlinks=True,
                ignore=shutil.ignore_patterns(".prefect"),
            )
            (folder / "making").rename(folder / "copy")
    return folder


@pytest.fixture(scope="session")
def chain(_chain_folder: Path) -> Project:
    """The finished chain, for the file that looks at it."""
    return Project(_chain_folder / "rlhf")


@pytest.fixture(scope="session")
def prefect_server(_chain_folder: Path) -> str:
    """The address of one Prefect server for all copies of the chain; it goes when the last test process has ended."""
    root = _chain_folder / "prefect"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(root / ".prefect"))
        return shared_server(root, psutil.Process())


@pytest.fixture
def copied_chain(_chain_folder: Path, prefect_server: str, tmp_path: Path) -> Iterator[Project]:
    """A copy of the finished chain of the test's own; what is still running there ends with it."""
    project = _copy(_chain_folder, tmp_path, prefect_server)
    yield project
    kill_below(project.root)


@pytest.fixture(scope="module")
def changed_chain(
    _chain_folder: Path, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """A copy of the finished chain that the tests of a file change in turn."""
    project = _copy(_chain_folder, tmp_path_factory.mktemp("changed"), prefect_server)
    yield project
    kill_below(project.root)


def _copy(chain_folder: Path, directory: Path, prefect_server: str) -> Project:
    root = directory / "rlhf"
    shutil.copytree(chain_folder / "copy", root, symlinks=True)
    moved = (str(chain_folder / "rlhf"), str(root))
    # artifacts lie at absolute paths
    with closing(sqlite3.connect(root / "mlflow.db")) as records, records:
        records.execute(
            "UPDATE experiments SET artifact_location = replace(artifact_location, ?, ?)", moved
        )
        records.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", moved)
        records.execute(
            "UPDATE logged_models SET artifact_location = replace(artifact_location, ?, ?)", moved
        )
        records.execute(
            "UPDATE model_versions SET storage_location = replace(storage_location, ?, ?)", moved
        )
    return Project(directory / "rlhf", prefect_server)


@pytest.fixture
def repository(tmp_path: Path) -> Iterator[Project]:
    """A git and DVC repository with two quick stages and nothing of the project in it."""
    project = Project.small(tmp_path / "repository")
    yield project
    kill_below(project.root)
