"""Nothing that a test starts phones home or writes its records into the repository."""

import os
import shutil
import signal
import socket
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
from filelock import FileLock
from xdist.scheduler import LoadScopeScheduling

from tasks.server import shared_server
from tests.project_copy import Project, copy_project
from tests.waiting import kill_below

os.environ["HF_HUB_OFFLINE"] = "1"
# the models are tiny, and the tests share the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A script that starts pytest with `&` has it ignored, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "RLHF_EXECUTION"):
    os.environ.pop(name, None)


# looks at the finished chain
CHAIN_FILE = "test_chain.py"
# each of its tests changes a copy of its own
COPY_FOR_EACH_TEST_FILE = "test_interrupted_chain.py"
# xdist hands a process its next file when two tests are left of the last one: short files between
# the two long ones
COPYING_FILES = (
    "test_changed_chain.py",
    COPY_FOR_EACH_TEST_FILE,
    "test_pipeline.py",
    "test_served_deployments.py",
    "test_pool_worker.py",
