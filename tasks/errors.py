"""Faults of the orchestration that are meant for the user, each one message."""

from pathlib import Path

from rlhf.common.errors import RlhfError


class StageFailed(RlhfError):
    """A stage's worker ended with a code other than 0; `last_lines` is the end of its output."""

    def __init__(self, stage: str, code: int, log: Path, last_lines: list[str]) -> None:
        super().__init__(f"{stage} {_reason(code)}; its output is in {log}")
        self.code = code
        self.last_lines = last_lines


class TrackingError(RlhfError):
    """MLflow cannot be used; the message carries the address and what to do."""


class BusyError(RlhfError):
    """Another run holds the workspace and waiting was not wanted."""


def _reason(code: int) -> str:
    if code >= 0:
        return f"failed (exit code {code})"
    # SIGKILL is what the kernel sends where memory ends
    hint = ", perhaps for want of memory" if code == -9 else ""
    resume = "run it again and it goes on from its last checkpoint"
    return f"was killed by signal {-code}{hint}; {resume}"
