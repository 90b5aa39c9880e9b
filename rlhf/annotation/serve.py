"""Serving the annotators' pages until Ctrl-C."""

import os
import secrets
import socket
from collections.abc import Callable
from urllib.parse import urlencode

import uvicorn

from rlhf.annotation.app import make_app
from rlhf.annotation.store import VoteStore
from rlhf.common.errors import RlhfError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# the same token after a restart, for links that were sent around
TOKEN_VARIABLE = "RLHF_ANNOTATE_TOKEN"
_ALL_ADDRESSES = ("0.0.0.0", "::")


def serve(store: VoteStore, host: str, port: int, echo: Callable[[str], None]) -> None:
    """Serve until Ctrl-C; port 0 takes a free one. `echo` is given the address of the page.

    On an address that other machines reach the pages are behind a token: of RLHF_ANNOTATE_TOKEN, or a
    fresh one. Raises RlhfError if the address cannot be had.
    """
    listener = _listen(host, port)
    token = None if host in LOOPBACK else os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe()
    url = f"http://{_shown_host(host)}:{listener.getsockname()[1]}/"
    address = url if token is None else f"{url}?{urlencode({'token': token})}"
    echo(f"{address} (Ctrl-C ends; every vote is saved)")

    # the socket is ours, so that the address is known before the server runs
    app = make_app(store, _allowed_hosts(host), token)
    config = uvicorn.Config(app, log_level="warning", access_log=False)
    uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    # the port of a server that was killed a moment ago can be had again
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise RlhfError(
            f"rlhf annotate: {host}:{port}: {error.strerror}; --port 0 takes a free one"
        ) from None
    return listener


def _allowed_hosts(host: str) -> list[str]:
    """On loopback its own names alone: else a foreign site could reach it under a name of its own."""
    if host in LOOPBACK:
        return ["127.0.0.1", "localhost", "[::1]"]
    return ["*"]


def _shown_host(host: str) -> str:
    """The host as it stands in a URL."""
    # 0.0.0.0 is no address that another machine could open
    if host in _ALL_ADDRESSES:
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
