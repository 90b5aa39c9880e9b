"""A hub of our own on the loopback: what huggingface_hub asks for when it downloads a snapshot, and nothing else."""

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT, OLDER = "a" * 40, "b" * 40
Files = Mapping[str, bytes]


@contextmanager
def fake_hub(repositories: Mapping[str, Files]) -> Iterator[tuple[str, list[str]]]:
    """Serve repositories ("datasets/owner/name", "models/owner/name"); gives the endpoint and the paths asked for.

    All have the tag v1 and the branch main at COMMIT, and an older, empty commit.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(body=True)

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def _answer(self, *, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            asked.append(path)
            parts = path.strip("/").split("/")
            status, content, headers = (
                self._api(parts[1:]) if parts[0] == "api" else self._file(parts)
            )
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(key, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

        def _api(self, parts: list[str]) -> tuple[int, bytes, dict[str, str]]:
            files = repositories.get("/".join(parts[:3]))
            if files is None:
                return 404, b"{}", {"X-Error-Code": "RepoNotFound"}
            if parts[3] == "refs":
                tag, branch = (
                    {"name": "v1", "ref": "refs/tags/v1", "targetCommit": COMMIT},
                    {"name": "main", "ref": "refs/heads/main", "targetCommit": COMMIT},
                )
                return (
                    200,
                    json.dumps({"tags": [tag], "branches": [branch], "converts": []}).encode(),
                    {},
                )
            if parts[3] == "tree" and parts[4] in (COMMIT, OLDER):
                listed = files if parts[4] == COMMIT else {}
                entries = [
                    {"type": "file", "path": name, "size": len(data), "oid": _oid(data)}
                    for name, data in listed.items()
                ]
                return 200, json.dumps(entries).encode(), {"Content-Type": "application/json"}
            return 404, b"{}", {"X-Error-Code": "RevisionNotFound"}

        def _file(self, parts: list[str]) -> tuple[int, bytes, dict[str, str]]:
            if parts[0] != "datasets":
                parts = ["models", *parts]
            data = repositories.get("/".join(parts[:3]), {}).get("/".join(parts[5:]))
            if data is None or parts[3:5] != ["resolve", COMMIT]:
                return 404, b"", {"X-Error-Code": "EntryNotFound"}
            return 200, data, {"ETag": f'"{_oid(data)}"', "X-Repo-Commit": COMMIT}

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
