"""Refuses and notes whatever a Python process asks of other machines; for PYTHONPATH of what a test starts.

ONLY_LOOPBACK_LOG: the file that gets a line of JSON a process (`process`: its command) and one a try to
reach another machine (`refused`). What libraries do in C, past Python's own sockets, is not seen.
"""

import json
import os
import socket
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

_LOG = os.environ.get("ONLY_LOOPBACK_LOG")
# of each event of Python's audit hooks: which argument is the host, or holds it first
_HOST = {
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
    "socket.gethostbyaddr": 0,
    "socket.connect": 1,
    "socket.sendto": 1,
}


def _write(**line: object) -> None:
    # short lines that are appended in one write do not mix
    with Path(_LOG).open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")


def _is_here(host: Any) -> bool:
    if isinstance(host, tuple):
        host = host[0]
    if isinstance(host, bytes | bytearray):
        host = host.decode(errors="replace")
    # a socket of a file system has a path
    if host in (None, "", "localhost", socket.gethostname()) or "/" in host or host[0] == "\0":
        return True
    try:
        address = ip_address(host.split("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event in _HOST and not _is_here(arguments[_HOST[event]]):
        host = str(arguments[_HOST[event]])
        _write(refused=host, event=event, command=sys.orig_argv)
        raise ConnectionRefusedError(f"{event} of {host}: tests reach this machine alone")


if _LOG:
    _write(process=sys.orig_argv)
    sys.addaudithook(_watch)
