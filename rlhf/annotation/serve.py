"""Serving the annotators' page until Ctrl-C."""

import socket
from collections.abc import Callable

import uvicorn

from rlhf.annotation.app import make_app
from rlhf.annotation.store import Store
from rlhf.common.errors import RlhfError

_ANY = ("0.0.0.0", "::")
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(store: Store, host: str, port: int, say: Callable[[str], None]) -> None:
    """Run until Ctrl-C; raises RlhfError where the address is taken.

    On loopback only requests under its own names are answered, so that no web page elsewhere reaches it by a name of its own.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise RlhfError(
            f"rlhf annotate: {host}:{port}: {error.strerror}; --port 0 takes a free one"
        ) from None
    hosts = ["127.0.0.1", "localhost", "[::1]"] if host in LOOPBACK else ["*"]
    shown = socket.gethostname() if host in _ANY else f"[{host}]" if ":" in host else host
    say(f"http://{shown}:{listener.getsockname()[1]}/ (Ctrl-C ends; every vote is kept)")
    server = uvicorn.Server(
        uvicorn.Config(make_app(store, hosts), log_level="warning", access_log=False)
    )
    server.run(sockets=[listener])
