"""Nothing of the whole chain asks anything of another machine: no telemetry, no look-up of a name."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.project_copy import LOOK_UPS, ONLY_LOOPBACK, Project


def lines_of(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("code", "host"),
    [
        ("socket.create_connection(('example.org', 443))", "example.org"),
        ("socket.create_connection(('192.0.2.1', 443), timeout=1)", "192.0.2.1"),
        ("socket.gethostbyname('example.org')", "example.org"),
        ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('192.0.2.1', 53))", "192.0.2.1"),
        ("urllib.request.urlopen('https://example.org')", "example.org"),
    ],
)
def test_what_asks_another_machine_is_refused_and_noted(
    tmp_path: Path, code: str, host: str
) -> None:
    log = tmp_path / "log"
    environment = {"PYTHONPATH": str(ONLY_LOOPBACK), "ONLY_LOOPBACK_LOG": str(log)}
    done = subprocess.run(
        [sys.executable, "-c", f"import socket, urllib.request; {code}"],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "tests reach this machine alone" in done.stderr
    process, *refused = lines_of(log)
    assert process["process"][0] == sys.executable
    assert host in refused[0]["refused"]


def test_this_machine_may_be_asked(tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {"PYTHONPATH": str(ONLY_LOOPBACK), "ONLY_LOOPBACK_LOG": str(log)}
    code = (
        "import socket\n"
        "server = socket.create_server(('127.0.0.1', 0))\n"
        "socket.create_connection(('localhost', server.getsockname()[1]))\n"
        "socket.getaddrinfo(socket.gethostname(), None)\n"
        "socket.getaddrinfo(None, 80)\n"
    )
    subprocess.run([sys.executable, "-c", code], env=os.environ | environment, check=True)
    assert len(lines_of(log)) == 1


def test_no_process_of_the_whole_chain_asks_another_machine(chain: Project) -> None:
    lines = lines_of(chain.root.parent / LOOK_UPS)
    commands = [" ".join(line["process"]) for line in lines if "process" in line]
    # it was watched: DVC, each stage, its worker, Prefect's server
    for part in ("dvc repro", "flows.fetch", "commands.worker ppo", "flows.report", "prefect"):
        assert any(part in command for command in commands), part
    assert [line for line in lines if "refused" in line] == []
