"""Step-by-step metrics (JSON lines, one object a step) and the summary of a stage (flat JSON)."""

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.common.errors import TrainingError
from rlhf.common.files import write_json, write_text, writing

Value = float | int | bool | str | None


def _finite(values: Mapping[str, Value], where: str) -> dict[str, Value]:
    bad = sorted(key for key, value in values.items() if isinstance(value, float) and not math.isfinite(value))
    if bad:
        raise TrainingError(f"{where}: not finite: {', '.join(bad)}")
    return dict(values)


class StepLog:
    """Append-only `metrics/<stage>.jsonl`; a resumed run goes on from the copy in its checkpoint.

    The file itself may hold steps after the checkpoint, or be gone: DVC removes a stage's outputs before running it.
    Several points of one step may be written under different keys; every line has `step`.
    """

    def __init__(self, path: Path, checkpoint: Path | None = None) -> None:
        write_text(path, "" if checkpoint is None else (checkpoint / path.name).read_text(encoding="utf-8"))
        self.path = path
        self._stream = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Write one line; a value that is not finite raises TrainingError naming its key, None is left out."""
        row = {key: value for key, value in values.items() if value is not None}
        line: dict[str, Value] = {"step": step}
        line.update(_finite(row, f"{self.path} step {step}"))
        with writing(self.path):
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()

    def keep(self, checkpoint: Path) -> None:
        """Copy what was written so far into a checkpoint's directory."""
        shutil.copyfile(self.path, checkpoint / self.path.name)

    def close(self) -> None:
        """End the log."""
        with writing(self.path):
            self._stream.close()


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Read a step log back; an incomplete last line (a run in progress or killed) is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def write_summary(path: Path, values: Mapping[str, Any]) -> None:
    """Write a stage's flat summary; raises TrainingError naming the keys that are not finite."""
    write_json(path, _finite(values, str(path)))
