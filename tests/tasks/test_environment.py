import getpass
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.environment import prepare_environment, records_root


def test_importing_tasks_silences_all_three_before_they_are_imported(tmp_path: Path) -> None:
    script = (
        "import os, sys, tasks\n"
        "assert not {'prefect', 'mlflow', 'dvc'} & set(sys.modules)\n"
        "names = ('DO_NOT_TRACK', 'PREFECT_SERVER_ANALYTICS_ENABLED', 'MLFLOW_DISABLE_TELEMETRY', 'DVC_NO_ANALYTICS')\n"
        "print(*[os.environ[name] for name in names], os.environ['PREFECT_HOME'])\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PREFECT_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "false", "true", "1", str(tmp_path.resolve() / ".prefect")]


def test_loopback_is_reached_past_any_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org, localhost")
    monkeypatch.setenv("no_proxy", "")
    prepare_environment(tmp_path)
    assert os.environ["NO_PROXY"] == "example.org,localhost,127.0.0.1"
    assert os.environ["no_proxy"] == "127.0.0.1,localhost"


@pytest.mark.parametrize("home", [None, "/nonexistent/me"])
def test_without_a_home_one_in_the_workspace_stands_in(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    home: str | None,
) -> None:
    def nobody(_uid: int) -> object:
        raise KeyError

    # as for a user that the machine has no name for
    monkeypatch.setattr("pwd.getpwuid", nobody)
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        # set, so that it is taken away again
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("HOME", home or "")
    if home is None:
        monkeypatch.delenv("HOME")
    prepare_environment(tmp_path)
    assert Path.home() == tmp_path / ".home" and Path.home().is_dir()
    assert capsys.readouterr().err.count("stands in for it") == 1
    assert getpass.getuser() == f"user-{os.getuid()}"
    # who has one keeps it, and so do the processes that are started from here
    prepare_environment(tmp_path / "elsewhere")
    assert Path.home() == tmp_path / ".home" and capsys.readouterr().err == ""


def test_a_queued_experiment_keeps_its_records_in_the_workspace_it_came_from(
    tmp_path: Path,
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "tmp123"
    copy.mkdir(parents=True)
    assert records_root(copy) == records_root(tmp_path) == tmp_path.resolve()
