"""How a command ends: the one place where a fault becomes a message and an exit code."""

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

from rlhf.common.address import without_credentials
from rlhf.common.errors import RlhfError

log = logging.getLogger("rlhf")

FAILED = 1
# 128 and the signal's number, as a shell has it
INTERRUPTED = 128 + signal.SIGINT
TERMINATED = 128 + signal.SIGTERM

_WORKER_INTERRUPTED = (
    "interrupted; a training stage goes on from its last checkpoint when it is run again"
)


@contextmanager
def exit_on_fault(
    *,
    interrupted: str | None = "interrupted",
    terminated: tuple[type[BaseException], ...] = (),
) -> Iterator[None]:
    """End the process where the block fails: one message, and exit code 1, 130 or 143.

    An RlhfError or OSError ends it with 1. Ctrl-C ends it with 130 and the message `interrupted`
    (None: no message); an exception of `terminated` is a SIGTERM, and gives 143. Anything else is a
    bug of ours and keeps its traceback.
    """
    try:
        yield
    except RlhfError as error:
        _end(FAILED, f"error: {error}")
    except OSError as error:
        # whoever looks for a bug of ours turns the log up
        log.debug("the fault's traceback", exc_info=True)
        _end(FAILED, f"error: {_os_fault(error)}")
    except KeyboardInterrupt:
        _end(INTERRUPTED, interrupted)
    except terminated:
        _end(TERMINATED, "terminated")


def run_as_command(work: Callable[[], object]) -> int:
    """Do a worker's work and give its exit code: 0 done, 1 a fault, 130 interrupted or terminated.

    SIGTERM interrupts it as Ctrl-C does, and log lines of this project go to stderr as they are.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with exit_on_fault(interrupted=_WORKER_INTERRUPTED):
            work()
    # the caller ends the process: tests call workers in theirs
    except SystemExit as end:
        if isinstance(end.code, str):
            raise
        return end.code or 0
    return 0


def _os_fault(error: OSError) -> str:
    """The file at fault and why; or the kind of a fault that has no number, as of a network."""
    if error.errno is None:
        return f"{type(error).__name__}: {without_credentials(str(error))}"
    return f"{error.filename or 'file system'}: {error.strerror or error}"


def _end(code: int, message: str | None) -> NoReturn:
    if message is not None:
        print(message, file=sys.stderr)
    raise SystemExit(code)


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
