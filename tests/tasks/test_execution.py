import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks.execution import (
    EXECUTION_VARIABLE,
    current_execution,
    has_lost_its_dvc,
    named_execution,
    process_key,
)

SHOW = "from tasks.execution import current_execution as c; print(c().key, c().owner.pid)"


def test_alone_a_stage_is_its_own_execution() -> None:
    execution = current_execution()
    assert execution.owner == psutil.Process()
    assert execution.key == process_key(psutil.Process())


def test_the_environment_names_the_execution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EXECUTION_VARIABLE, "pipeline-1")
    assert current_execution().key == "pipeline-1"


def test_a_flow_names_the_execution_of_what_it_starts() -> None:
    with named_execution("pipeline-2"):
        assert current_execution().key == "pipeline-2"
    assert current_execution().key == process_key(psutil.Process())


def test_stages_of_one_dvc_command_find_the_same_execution(tmp_path: Path) -> None:
    dvc = tmp_path / "dvc"  # what counts is the name under which it was started
    dvc.write_text(
        "import os, subprocess, sys\n"
        f"for _ in range(2): subprocess.run(['/bin/sh', '-c', '{sys.executable} -c \"{SHOW}\"'], check=True)\n"
        "print(os.getpid())\n"
    )
    done = subprocess.run(
        [sys.executable, str(dvc), "repro"], capture_output=True, text=True, check=True
    )
    first, second, own = done.stdout.splitlines()
    assert first == second
    assert first.split()[1] == own


def test_a_stage_knows_whether_the_dvc_that_started_it_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # by hand there was none
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert not has_lost_its_dvc(current_execution())
    monkeypatch.setenv("DVC_STAGE", "sft")
    assert has_lost_its_dvc(current_execution())


def test_it_is_there_while_dvc_runs(tmp_path: Path) -> None:
    dvc = tmp_path / "dvc"
    show = "from tasks.execution import *; print(has_lost_its_dvc(current_execution()))"
    dvc.write_text(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {show!r}])\n")
    command = [sys.executable, str(dvc)]
    environment = os.environ | {"DVC_STAGE": "sft"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "False\n"
