"""A SOCKS proxy in the environment: every client that the chain speaks HTTP with goes through it."""

import os
import socket
import socketserver
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

CLIENTS = {
    # of judges, reward services and Prefect
    "httpx": "import httpx; print(httpx.get({url!r}).text)",
    # of the hub
    "httpx2": "import httpx2; print(httpx2.get({url!r}).text)",
    # of MLflow
    "requests": "import requests; print(requests.get({url!r}).text)",
    # of `wheel:`
    "pip": "from pip._vendor import requests; print(requests.get({url!r}).text)",
}


@contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    """Serve in a thread; gives the port."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"through the proxy"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def socks_server(asked: list[str], port: int) -> socketserver.ThreadingTCPServer:
    """SOCKS 5 without a password (RFC 1928); whatever is asked for, it connects to `port` here."""

    class Relay(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            _, methods = self.rfile.read(2)
            self.rfile.read(methods)
            self.wfile.write(b"\x05\x00")
            # a name, not an address: the last of these bytes is 3
            assert self.rfile.read(4)[-1] == 3
            host = self.rfile.read(self.rfile.read(1)[0]).decode()
            (wanted,) = struct.unpack("!H", self.rfile.read(2))
            asked.append(f"{host}:{wanted}")
            self.wfile.write(b"\x05\x00\x00\x01" + bytes(6))
            with socket.create_connection(("127.0.0.1", port)) as upstream:
                # one request, one answer
                upstream.sendall(self.connection.recv(65536))
                while data := upstream.recv(65536):
                    self.connection.sendall(data)
                    if b"through the proxy" in data:
                        return

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    return Server(("127.0.0.1", 0), Relay)


@pytest.mark.parametrize("client", CLIENTS)
def test_it_is_gone_through(client: str) -> None:
    asked: list[str] = []
    # no such host: only the proxy can know where it is
    url = "http://somewhere.invalid:4242/"
    with (
        serving(ThreadingHTTPServer(("127.0.0.1", 0), Hello)) as port,
        serving(socks_server(asked, port)) as proxy,
    ):
        lower = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        environment = lower | {"ALL_PROXY": f"socks5h://127.0.0.1:{proxy}"}
        done = subprocess.run(
            [sys.executable, "-c", CLIENTS[client].format(url=url)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.stdout.strip() == "through the proxy", done.stderr
    assert asked == ["somewhere.invalid:4242"]
