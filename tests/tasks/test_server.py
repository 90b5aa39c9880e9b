import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks import server
from tasks.execution import process_key
from tasks.process import MARK
from tasks.server import (
    address_file,
    answers,
    is_leased,
    release,
    running_server,
    shared_server,
    start_server,
)
from tests.waiting import wait_until


@pytest.fixture
def prefect_of() -> Iterator[tuple[str, dict[str, str]]]:
    """Something that answers as a Prefect server does; its state is in the folder `home`."""
    state = {"home": ""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(state).encode())

        def log_message(self, *_: object) -> None: ...

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/api", state
    http.shutdown()
    http.server_close()


@pytest.fixture
def two_processes() -> Iterator[tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]]]:
    """Two processes that live until they are killed."""
    command = [sys.executable, "-c", "input()"]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE) for _ in range(2)]
    yield started[0], started[1]
    for process in started:
        process.kill()
        process.wait()


def test_another_workspaces_server_is_not_taken_for_ones_own(
    prefect_of: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, state = prefect_of
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    state["home"] = str(tmp_path / ".prefect")
    # one question may take too long on a busy machine
    wait_until(lambda: answers(url), f"{url} does not answer")
    state["home"] = "/elsewhere/.prefect"
    assert not answers(url)
    assert not answers("http://127.0.0.1:9/api")


def test_a_running_server_is_shared_and_kept_while_anyone_who_asked_lives(
    prefect_of: tuple[str, dict[str, str]],
    two_processes: tuple[subprocess.Popen[bytes], subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    url, state = prefect_of
    keeper, dvc = two_processes
    state["home"] = str(tmp_path / ".prefect")
    monkeypatch.setenv("PREFECT_HOME", state["home"])
    record = {"url": url, "pid": keeper.pid, "started": psutil.Process(keeper.pid).create_time()}
    address_file(tmp_path).parent.mkdir()
    address_file(tmp_path).write_text(json.dumps(record))
    own = psutil.Process()
    owner = psutil.Process(dvc.pid)
    assert shared_server(tmp_path, owner) == url
    leases = {path.stem for path in (tmp_path / ".prefect" / "leases").iterdir()}
    assert leases == {process_key(own), process_key(owner)}
    # dvc still needs it
    assert not release(tmp_path, own)
    dvc.kill()
    dvc.wait()
    assert not is_leased(tmp_path)
    keeper.kill()
    keeper.wait()
    # its keeper is gone, whoever answers at that address now
    assert running_server(tmp_path) is None
    assert not address_file(tmp_path).exists()


def test_a_server_that_the_user_names_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example.org/api")
    assert shared_server(tmp_path, psutil.Process()) == "http://prefect.example.org/api"
    assert not (tmp_path / ".prefect").exists()


KEEPER = """
import json, os, sys, time
with open(sys.argv[1] + ".partial", "w") as stream:
    json.dump(dict(os.environ), stream)
os.replace(sys.argv[1] + ".partial", sys.argv[1])
time.sleep(3600)
"""


def test_a_server_does_not_go_with_the_run_that_happened_to_start_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`run_process` ends all that carries its mark; the user interface may by then use the server."""
    seen = tmp_path / "environment.json"
    start = subprocess.Popen
    started: list[subprocess.Popen[bytes]] = []

    def without_prefect(_command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(start([sys.executable, "-c", KEEPER, str(seen)], **options))
        return started[-1]

    monkeypatch.setenv(MARK, "run-1")
    monkeypatch.setattr(server.subprocess, "Popen", without_prefect)
    monkeypatch.setattr(server, "answers", lambda _url: seen.exists())
    try:
        start_server(tmp_path)
        record = json.loads(address_file(tmp_path).read_text())
        assert [process.pid for process in started] == [record["pid"]]
    finally:
        for process in started:
            process.kill()
            process.wait()
    environment = json.loads(seen.read_text())
    assert MARK not in environment and environment["PATH"]
