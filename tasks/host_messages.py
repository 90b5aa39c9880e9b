"""What a host says to the main one between its processes' lines: JSON behind a mark.

ready: its checks are passed; refused: they are not, and why; failed: the first of its ranks that
did, with its exit code.
"""

import json
from typing import Any

_MARK = "\x1erlhf-host "


def tell(**message: Any) -> None:
    """Say something to the main host."""
    print(_MARK + json.dumps(message), flush=True)


def heard(line: str) -> dict[str, Any] | None:
    """What a line says to the main host; None: it is output like any other."""
    if not line.startswith(_MARK):
        return None
    message: dict[str, Any] = json.loads(line.removeprefix(_MARK))
    return message
