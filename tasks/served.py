"""One process a workspace serves its deployments to Prefect's page; whoever comes second waits for its turn."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.environment import records_root
from tasks.errors import BusyError

# the exit code of a process that wanted to serve them beside another one; EX_TEMPFAIL of sysexits.h
SERVED_ELSEWHERE = 75


@contextmanager
def serving(root: Path) -> Iterator[None]:
    """Be the one who serves them in the block; raises BusyError where another process does."""
    path = _lock(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError("another process serves this workspace's deployments") from None
        yield


def is_served(root: Path) -> bool:
    """Whether a process serves them."""
    if not _lock(root).exists():
        return False
    with _lock(root).open() as stream:
        try:
            # shared: two who look do not take each other for the one who serves
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _lock(root: Path) -> Path:
    return records_root(root) / ".prefect" / "served.lock"
