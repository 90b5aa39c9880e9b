"""A Prefect server that cannot be used is one line, before any work; stand-ins answer as such servers do."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from typing import Any

import pytest

from rlhf.common.errors import RlhfError
from tasks.prefect_api import refuse_unusable_prefect


@contextmanager
def answering(status: int, api_version: str) -> Iterator[str]:
    """A server that gives every request a status, and its version where it is asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(api_version if self.path.endswith("version") else True).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/api"
    finally:
        server.shutdown()
        server.server_close()


def refused(url: str) -> str:
    with pytest.raises(RlhfError) as told:
        refuse_unusable_prefect(url)
    message = str(told.value)
    assert "\n" not in message and len(message) < 300
    assert message.startswith("Prefect at http://")
    assert message.endswith("unset PREFECT_API_URL to use the workspace's own server")
    return message


def test_a_server_of_this_version_is_used() -> None:
    with answering(200, version("prefect")) as url:
        refuse_unusable_prefect(url)


def test_one_that_is_away_is_named_without_its_password(unanswered: str) -> None:
    message = refused(f"http://user:secret@{unanswered}/api")
    assert unanswered in message and "secret" not in message
    assert "refused" in message or "connect" in message.lower()


def test_one_of_another_major_version_is_named_with_both() -> None:
    with answering(200, "2.20.1") as url:
        message = refused(url)
    assert "2.20.1" in message and version("prefect") in message


@pytest.mark.parametrize(
    ("status", "said"),
    [(401, "PREFECT_API_AUTH_STRING"), (403, "PREFECT_API_AUTH_STRING"), (404, "ends in /api")],
)
def test_one_that_refuses_is_told_by_what_it_wants(status: int, said: str) -> None:
    with answering(status, "3.0.0") as url:
        assert said in refused(url)
