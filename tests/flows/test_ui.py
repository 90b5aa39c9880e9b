import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from flows import ui
from rlhf.common.errors import RlhfError
from tests.project_copy import Project
from tests.source_tree import ROOT


@pytest.fixture
def without_servers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The interfaces' own logic: which servers it starts, and that it stops on Ctrl-C."""
    started: list[str] = []
    monkeypatch.setattr(ui, "shared_server", lambda *_: "http://127.0.0.1:1/api")
    monkeypatch.setattr(ui, "release", lambda *_: True)
    monkeypatch.setattr(ui, "stop", lambda _: None)

    class Server:
        def poll(self) -> None:
            raise KeyboardInterrupt

    def start(_root: object) -> tuple[str, Server]:
        started.append("mlflow")
        return "http://127.0.0.1:5001", Server()

    def pause(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ui, "start_mlflow", start)
    monkeypatch.setattr(ui, "wait_for", lambda *_: None)
    monkeypatch.setattr(ui.time, "sleep", pause)
    return started


def test_a_server_of_ones_own_is_named_without_its_password_and_none_is_started(
    without_servers: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:s3cret@tracking.example")
    ui.main()
    told = capsys.readouterr().out
    assert "https://tracking.example" in told and "s3cret" not in told
    assert without_servers == []


def test_an_empty_address_is_none(
    without_servers: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    ui.main()
    assert without_servers == ["mlflow"]
    assert "MLflow   http://127.0.0.1:5001" in capsys.readouterr().out


def test_an_mlflow_that_does_not_start_is_told_with_its_log(tmp_path: Path) -> None:
    told = r"the MLflow server did not start; see .*logs/mlflow-server\.log"
    with (
        subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as server,
        pytest.raises(RlhfError, match=told),
    ):
        ui.wait_for(server, "http://127.0.0.1:1", tmp_path)


def test_mlflow_is_stopped_where_prefect_does_not_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    )

    def refuse(*_: object) -> str:
        raise RlhfError("the Prefect server did not start; see prefect-server.log")

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(ui, "start_mlflow", lambda _: ("http://127.0.0.1:1", server))
    monkeypatch.setattr(ui, "shared_server", refuse)
    monkeypatch.setattr(ui, "release", lambda *_: True)
    with pytest.raises(SystemExit) as ended:
        ui.main()
    assert ended.value.code == 1
    assert "the Prefect server did not start" in capsys.readouterr().err
    assert server.returncode is not None


@pytest.mark.usefixtures("without_nohup")
def test_both_interfaces_show_this_workspace_whatever_holds_the_usual_ports_and_end_with_their_terminal(
    repository: Project,
) -> None:
    for name in ("tasks", "flows", "rlhf"):
        (repository.root / name).symlink_to(ROOT / name)
    holders = []
    for port in (4200, 5000):
        with suppress(OSError):  # somebody else holds it already
            holders.append(socket.create_server(("127.0.0.1", port)))
    servers = repository.start(sys.executable, "-m", "flows.ui")
    assert servers.stdout is not None
    prefect, mlflow, _ = (servers.stdout.readline().split()[-1] for _ in range(3))
    assert httpx.get(f"{prefect}/ui-settings", timeout=60).json()["api_url"] == f"{prefect}/api"
    assert httpx.get(f"{mlflow}/health", timeout=60).text == "OK"
    held = [
        f":{holder.getsockname()[1]}" for holder in holders
    ]  # a port that was free by then may be used
    assert not [port for port in held if prefect.endswith(port) or mlflow.endswith(port)]
    servers.send_signal(signal.SIGHUP)  # which is taken for SIGTERM
    servers.communicate(timeout=120)
    for address in (prefect, mlflow):
        with pytest.raises(httpx.ConnectError):
            httpx.get(address, timeout=10)
    for holder in holders:
        holder.close()
