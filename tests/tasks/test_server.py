import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks import server
from tasks.execution import key_of
from tasks.process import MARK
from tasks.server import address_file, answers, release, shared_server


@pytest.fixture
def prefect_of() -> Iterator[tuple[str, dict[str, str]]]:
    """Something that answers as a Prefect server does; its state is kept in what `home` says."""
    state = {"home": ""}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(state).encode())

        def log_message(self, *_: object) -> None: ...

    http = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/api", state
    http.shutdown()
    http.server_close()


def test_another_workspaces_server_is_not_taken_for_ones_own(
    prefect_of: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, state = prefect_of
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / ".prefect"))
    state["home"] = str(tmp_path / ".prefect")
    assert answers(url)
    state["home"] = "/elsewhere/.prefect"
    assert not answers(url)
    assert not answers("http://127.0.0.1:9/api")


def test_a_running_server_is_shared_and_kept_while_anyone_who_asked_lives(
    prefect_of: tuple[str, dict[str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    url, state = prefect_of
    state["home"] = str(tmp_path / ".prefect")
    monkeypatch.setenv("PREFECT_HOME", state["home"])
    keeper = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    record = {"url": url, "pid": keeper.pid, "started": psutil.Process(keeper.pid).create_time()}
    address_file(tmp_path).parent.mkdir()
    address_file(tmp_path).write_text(json.dumps(record))
    dvc = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    own = psutil.Process()
    owner = psutil.Process(dvc.pid)
    assert shared_server(tmp_path, owner) == url
    leases = {path.stem for path in (tmp_path / ".prefect" / "leases").iterdir()}
    assert leases == {key_of(own), key_of(owner)}
    assert not release(tmp_path, own)  # dvc still needs it
    dvc.kill()
    dvc.wait()
    assert not server._leased(tmp_path)
    keeper.kill()
    keeper.wait()
    assert (
        server._living(tmp_path) is None
    )  # its keeper is gone, whoever answers at that address now
    assert not address_file(tmp_path).exists()


def test_a_server_that_the_user_names_is_used_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example.org/api")
    assert shared_server(tmp_path, psutil.Process()) == "http://prefect.example.org/api"
    assert not (tmp_path / ".prefect").exists()


def test_a_server_does_not_go_with_the_run_that_happened_to_start_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`run_process` ends all that carries its mark; the user interface may by then use the server."""
    seen = tmp_path / "environment.json"
    keeper = f"import json, os, time; json.dump(dict(os.environ), open({str(seen)!r}, 'w')); time.sleep(600)"
    start = subprocess.Popen

    def without_prefect(_command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        return start([sys.executable, "-c", keeper], **options)

    monkeypatch.setenv(MARK, "run-1")
    monkeypatch.setattr(server.subprocess, "Popen", without_prefect)
    monkeypatch.setattr(server, "answers", lambda _url: seen.exists() and seen.stat().st_size > 0)
    server._start(tmp_path)
    record = json.loads(address_file(tmp_path).read_text())
    psutil.Process(record["pid"]).kill()
    environment = json.loads(seen.read_text())
    assert MARK not in environment and environment["PATH"]
