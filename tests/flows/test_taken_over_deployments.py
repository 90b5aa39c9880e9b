"""Who serves a workspace's deployments while two `make ui` run, and after the first has ended."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import cast

import pytest

from flows import deployments, ui
from rlhf.common.files import read_json
from tasks.errors import BusyError
from tasks.run_page import address_file
from tasks.served import SERVED_ELSEWHERE, is_served, serving
from tests.source_tree import ROOT
from tests.waiting import wait_until

# as `python -m flows.deployments` does it, without Prefect
SERVES = """
import sys, time
from pathlib import Path
from tasks.errors import BusyError
from tasks.served import SERVED_ELSEWHERE, serving
try:
    with serving(Path()):
        time.sleep(3600)
except BusyError:
    sys.exit(SERVED_ELSEWHERE)
"""
TAKES_OVER = "The other process has ended: the deployments are served from here."


@contextmanager
def runner_of(
    root: Path, script: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ui.DeploymentRunner]:
    """The runner of a `make ui`, which runs a script."""

    def start(root: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", script],
            cwd=root,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )

    monkeypatch.setattr(ui, "start_runner", start)
    runner = ui.DeploymentRunner(root)
    try:
        yield runner
    finally:
        runner.stop()


def test_one_process_serves_them(tmp_path: Path) -> None:
    assert not is_served(tmp_path)
    with serving(tmp_path):
        assert is_served(tmp_path)
        with pytest.raises(BusyError, match="another process serves"), serving(tmp_path):
            pass
    assert not is_served(tmp_path)


def test_the_second_takes_over_when_the_first_has_ended_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []

    with ExitStack() as first:
        first.enter_context(serving(tmp_path))
        with runner_of(tmp_path, SERVES, monkeypatch) as runner:

            def says(text: str) -> bool:
                runner.look()
                told.extend(capsys.readouterr().out.splitlines())
                return any(text in line for line in told)

            wait_until(lambda: says("Another process serves the deployments"), "it does not say so")
            assert not says(TAKES_OVER)
            first.close()
            assert says(TAKES_OVER)
            wait_until(lambda: is_served(tmp_path), "it does not take over")
            assert not says("not served here") and len(told) == 2
    assert not is_served(tmp_path)


def test_one_that_fails_is_not_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = ""
    with runner_of(tmp_path, "raise SystemExit(1)", monkeypatch) as runner:

        def says_that_it_failed() -> bool:
            nonlocal told
            runner.look()
            told += capsys.readouterr().out
            return "not served here; see" in told

        wait_until(says_that_it_failed, "it does not say so")
        says_that_it_failed()
    assert len(told.splitlines()) == 1 and "logs/deployments.log" in told


def test_the_command_tells_by_its_exit_code_that_another_one_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    address = "http://127.0.0.1:1/api"
    monkeypatch.setattr(deployments, "prefect_server", lambda *_: nullcontext(address))
    with serving(tmp_path), pytest.raises(SystemExit) as ended:
        deployments.main([])
    assert ended.value.code == SERVED_ELSEWHERE
    assert "another process serves this workspace's deployments" in capsys.readouterr().err


class Healthy(BaseHTTPRequestHandler):
    """Answers as MLflow does where it is asked for its health."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def test_pages_link_to_the_first_mlflow_while_it_answers(tmp_path: Path) -> None:
    def note(address: str) -> str:
        process = cast("subprocess.Popen[bytes]", None)
        ui.note_address(tmp_path, ui.MlflowServer(address, process))
        return str(read_json(address_file(tmp_path))["address"])

    with ThreadingHTTPServer(("127.0.0.1", 0), Healthy) as server:
        first = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert note(first) == first
        assert note("http://127.0.0.1:1") == first
        server.shutdown()
        thread.join()
    # killed, so that it could not take its address back
    assert note("http://127.0.0.1:1") == "http://127.0.0.1:1"
