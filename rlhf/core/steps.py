"""Step-by-step metrics: JSON lines, one object a step."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.common.files import write_text, writing
from rlhf.common.metrics import Value, finite


class StepLog:
    """Append-only `metrics/<stage>.jsonl`; a resumed run goes on from the copy in its checkpoint.

    The file itself may hold steps after the checkpoint, or be gone: DVC removes a stage's outputs
    before running it. Several points of one step may be written under different keys; every line
    has `step`.
    """

    def __init__(self, path: Path, checkpoint: Path | None = None) -> None:
        write_text(
            path, "" if checkpoint is None else (checkpoint / path.name).read_text(encoding="utf-8")
        )
        self.path = path
        self._stream = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Write one line without the values that are None.

        A value that is not finite raises TrainingError that names its key.
        """
        row = {key: value for key, value in values.items() if value is not None}
        line: dict[str, Value] = {"step": step}
        line.update(finite(row, f"{self.path} step {step}"))
        with writing(self.path):
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()

    def copy_to(self, checkpoint: Path) -> None:
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
            # being written, or cut off by a kill
            break
    return rows


def ends(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[float, float]:
    """Means of `key` over the first and over the last tenth of the rows (at least one row each)."""
    values = [float(row[key]) for row in rows]
    tenth = max(1, len(values) // 10)
    return sum(values[:tenth]) / tenth, sum(values[-tenth:]) / tenth


def write_plot_data(log: Path, target: Path) -> None:
    """Write the step log as one JSON list for DVC's plots.

    A row a step, each with every key, null where it was not measured.
    """
    # several lines of one step are one row
    steps: dict[int, dict[str, Any]] = {}
    for row in read_steps(log):
        steps.setdefault(int(row["step"]), {}).update(row)
    keys = sorted({key for row in steps.values() for key in row})
    rows = [{key: steps[step].get(key) for key in keys} for step in sorted(steps)]
    write_text(target, json.dumps(rows, indent=0, allow_nan=False) + "\n")
