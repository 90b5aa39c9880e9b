"""Two network namespaces that see each other alone, joined by a cable: two hosts on one machine.

They need no rights but that to make namespaces, which containers may refuse.
"""

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

# the name that each has for its end of the cable, and the addresses
INTERFACE = "cable0"
ADDRESSES = ("10.213.7.1", "10.213.7.2")
_WAIT = ("sh", "-c", "echo ready; exec sleep infinity")


@contextmanager
def two_namespaces() -> Iterator[dict[str, list[str]]]:
    """Give for the hosts one and two the words that run a command there; raises OSError with the reason."""
    with ExitStack() as holders:
        first = holders.enter_context(
            _held(["unshare", "--user", "--map-root-user", "--net", *_WAIT])
        )
        into_first = _entering(first)
        second = holders.enter_context(_held([*into_first, "unshare", "--net", *_WAIT]))
        into_second = _entering(second)

        ends = ["name", INTERFACE, "netns", str(second)]
        _do([*into_first, "ip", "link", "add", INTERFACE, "type", "veth", "peer", *ends])
        for into, address in zip((into_first, into_second), ADDRESSES, strict=True):
            _do([*into, "ip", "address", "add", f"{address}/24", "dev", INTERFACE])
            for link in ("lo", INTERFACE):
                _do([*into, "ip", "link", "set", link, "up"])
        yield {"one": into_first, "two": into_second}


def _entering(pid: int) -> list[str]:
    return ["nsenter", "--target", str(pid), "--user", "--preserve-credentials", "--net"]


@contextmanager
def _held(command: Sequence[str]) -> Iterator[int]:
    """The id of a process that keeps a namespace."""
    holder = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    assert holder.stdout is not None and holder.stderr is not None
    try:
        if holder.stdout.readline() != "ready\n":
            raise OSError(f"{' '.join(command[:4])}: {holder.stderr.read().strip()}")
        yield holder.pid
    finally:
        holder.kill()
        holder.communicate()


def _do(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command[-6:])}: {done.stderr.strip()}")
