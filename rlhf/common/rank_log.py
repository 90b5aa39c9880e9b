"""The log of one rank: on several hosts each process but the main one writes to a file of its own."""

import os
import sys
from pathlib import Path

# the environment variable that names the files, with {rank} in place of the rank
RANK_LOG = "RLHF_RANK_LOG"


def write_own_log() -> None:
    """Send all that this process says to its file; the main one stays with what started it."""
    name, rank = os.environ.get(RANK_LOG), os.environ.get("RANK", "0")
    if not name or rank == "0":
        return
    path = Path(name.format(rank=rank))
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    # what libraries in C say goes there too
    with path.open("w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
