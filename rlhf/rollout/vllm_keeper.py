"""`python vllm_keeper.py FOLDER COMMAND ...`: run a server until whoever started this has gone.

The keeper's standard input is a pipe that nobody writes to. The kernel closes it when the process that
holds its other end goes, however it goes; then the server and all that it started are ended, and the
folder is removed.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress

_POLL_SECONDS = 0.5
# between asking and insisting
_GRACE_SECONDS = 10.0


def main() -> None:
    """Run the command given as arguments, in a process group of its own; exits as it does."""
    folder, *command = sys.argv[1:]
    # noted and no more: an exception might come just before we know the server
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: asked.append(signum))
    try:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            while server.poll() is None and not asked and not _is_left():
                pass
        finally:
            _end(server)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(128 + asked[0] if asked else server.returncode)


def _is_left() -> bool:
    """Whether the pipe was closed at its other end; waits a moment for that."""
    readable, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
    return bool(readable) and not os.read(sys.stdin.fileno(), 1)


def _end(server: "subprocess.Popen[bytes]") -> None:
    """End the whole group: what the server started may outlive it."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        # nobody is left
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signum)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE_SECONDS)


if __name__ == "__main__":
    main()
