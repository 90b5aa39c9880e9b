import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from flows import ui
from flows.ui import MlflowServer
from rlhf.common.errors import RlhfError
from tests.project_copy import Project
from tests.source_tree import ROOT
from tests.waiting import SECONDS, processes_below, wait_until


@pytest.fixture
def without_servers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The interfaces' own logic: which servers it starts, and that it stops on Ctrl-C."""
    started: list[str] = []
    monkeypatch.setattr(ui, "usable_server", lambda *_: "http://127.0.0.1:1/api")
    monkeypatch.setattr(ui, "release", lambda *_: True)
    monkeypatch.setattr(ui, "stop", lambda *_: None)

    class Interrupted:
        def poll(self) -> None:
            raise KeyboardInterrupt

    def start(_root: object) -> MlflowServer:
        started.append("mlflow")
        return MlflowServer("http://127.0.0.1:5001", Interrupted())  # type: ignore[arg-type]

    def pause(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ui, "start_mlflow", start)
    monkeypatch.setattr(ui, "start_runner", lambda _: Interrupted())
    monkeypatch.setattr(ui, "wait_for", lambda server, _root: server)
    monkeypatch.setattr(ui.time, "sleep", pause)
    return started


def test_a_server_of_ones_own_is_named_without_its_password_and_none_is_started(
    without_servers: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:s3cret@tracking.example")
    ui.main()
    output = capsys.readouterr().out
    assert "https://tracking.example" in output and "s3cret" not in output
    assert without_servers == []


def test_an_empty_address_is_none(
    without_servers: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    ui.main()
    assert without_servers == ["mlflow"]
    assert "MLflow   http://127.0.0.1:5001" in capsys.readouterr().out


def test_an_mlflow_that_does_not_start_is_reported_with_its_log(tmp_path: Path) -> None:
    message = r"the MLflow server did not start; see .*logs/mlflow-server\.log"
    with (
        subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process,
        pytest.raises(RlhfError, match=message),
    ):
        ui.wait_for(MlflowServer("http://127.0.0.1:1", process), tmp_path)


@pytest.mark.long
def test_a_port_that_is_taken_while_mlflow_starts_is_not_the_end(tmp_path: Path) -> None:
    first = ui.start_mlflow(tmp_path, wanted=0)
    port = int(first.address.rpartition(":")[2])
    with socket.create_server(("127.0.0.1", port)):
        second = ui.wait_for(first, tmp_path)
    try:
        assert second.address != first.address
        assert first.process.returncode is not None
        answer = httpx.get(f"{second.address}/health", timeout=SECONDS, trust_env=False)
        assert answer.text == "OK"
    finally:
        ui.stop(second.process)


def test_mlflow_is_stopped_where_prefect_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True
    )

    def refuse(*_: object) -> str:
        raise RlhfError("the Prefect server did not start; see prefect-server.log")

    server = MlflowServer("http://127.0.0.1:1", process)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(ui, "start_mlflow", lambda _: server)
    monkeypatch.setattr(ui, "usable_server", refuse)
    monkeypatch.setattr(ui, "release", lambda *_: True)
    with pytest.raises(SystemExit) as end:
        ui.main()
    assert end.value.code == 1
    assert "the Prefect server did not start" in capsys.readouterr().err
    assert process.returncode is not None


@pytest.mark.long
@pytest.mark.usefixtures("without_nohup")
def test_both_interfaces_show_this_workspace_whatever_holds_the_usual_ports_and_end_with_their_terminal(
    repository: Project,
) -> None:
    for name in ("tasks", "flows", "rlhf"):
        (repository.root / name).symlink_to(ROOT / name)
    holders = []
    for port in (4200, 5000):
        # somebody else may hold it already
        with suppress(OSError):
            holders.append(socket.create_server(("127.0.0.1", port)))
    servers = repository.start(sys.executable, "-m", "flows.ui")
    assert servers.stdout is not None
    prefect, mlflow, _ = (servers.stdout.readline().split()[-1] for _ in range(3))
    settings = httpx.get(f"{prefect}/ui-settings", timeout=SECONDS, trust_env=False).json()
    assert settings["api_url"] == f"{prefect}/api"
    assert httpx.get(f"{mlflow}/health", timeout=SECONDS, trust_env=False).text == "OK"
    # a port that somebody else held may have been free by then
    held = [f":{holder.getsockname()[1]}" for holder in holders]
    assert not [port for port in held if prefect.endswith(port) or mlflow.endswith(port)]
    # which is taken for SIGTERM
    servers.send_signal(signal.SIGHUP)
    servers.communicate(timeout=SECONDS)
    # their ports may be another's by now
    wait_until(lambda: not processes_below(repository.root), "a server is still there")
    for holder in holders:
        holder.close()
