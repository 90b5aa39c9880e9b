"""How a worker's process begins and ends, whatever its work is."""

import logging
import signal
import sys
from collections.abc import Callable

from rlhf.common.errors import RlhfError


def guarded(run: Callable[[], object]) -> int:
    """Do a worker's work and give its exit code: 0 done, 1 a fault told in one message, 130 interrupted."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rlhf").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        run()
    except RlhfError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(
            f"error: {error.filename or 'file system'}: {error.strerror or error}", file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print(
            "interrupted; a training stage goes on from its last checkpoint when it is run again",
            file=sys.stderr,
        )
        return 130
    return 0


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
