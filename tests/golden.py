"""Do the numbers stand still? `python -m tests.golden` trains the tiny models and compares with tests/golden.json.

The file holds what the stages sft, reward and ppo logged at commit 685e110, before the rooms were
rebuilt, on one kind of machine, and apa's numbers from when it joined. On that kind every number must
be equal to the bit; on another one, close. `--write NAME ...` records runs anew, after a change that is
meant to move them.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_suffix(".json")
ROOT = FILE.parent.parent
# one instruction set and one thread: the order of every sum is then the same
ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "OMP_NUM_THREADS": "1",
}
# another machine's sums are in another order, and training makes more of that
TOLERANCE = 2e-3

EVERY_DETAIL: dict[str, Any] = {
    "ppo.epochs": 2,
    "ppo.micro_batch": 2,
    "ppo.trainable_layers": 1,
    "ppo.entropy": {"coefficient": 0.01, "target": 2.0},
    "ppo.advantage": {"normalise": "mini-batch", "clip": 2.0},
    "ppo.surrogate_clip": None,
    "ppo.penalty": {"coefficient": 1.0, "target": 1e-4},
    "ppo.reward": {"normalise": None, "scale": "running", "clip": 3.0},
    "ppo.kl": {"coefficient": 0.1, "estimator": "k3"},
    "ppo.sampling": {"temperature": 0.8},
}
APA: dict[str, Any] = {
    "ppo.algorithm": "apa",
    "ppo.apa": {"lambda": 0.1},
    "ppo.advantage": {"normalise": "mini-batch", "clip": None},
    "ppo.kl": None,
    "ppo.surrogate_clip": None,
    "ppo.ptx": None,
}
# name -> stage and changes of the preset tiny
RUNS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {"sft.batch_tokens": 64}),
    "reward": ("reward", {"reward.batch_tokens": 160}),
    "ppo-max": ("ppo", {}),
    "every detail": ("ppo", EVERY_DETAIL),
    "apa": ("ppo", APA),
}


def machine() -> str:
    """The kind of machine that the numbers belong to."""
    import torch

    vendor = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        vendors = [line.split(":")[1].strip() for line in lines if line.startswith("vendor_id")]
        vendor = vendors[0] if vendors else vendor
    return f"{platform.machine()} {vendor} torch {torch.__version__.partition('+')[0]}"


def measure(names: list[str]) -> dict[str, Any]:
    """The rows of the step log of each run, without times."""
    sys.path.insert(0, str(ROOT / "tests" / "rlhf"))
    from tiny import copy_workspace, make_workspace, numbers, tiny_settings

    from rlhf.stages import find_stage

    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared = make_workspace(Path(folder) / "prepared")
        for name in names:
            stage, changes = RUNS[name]
            workspace = copy_workspace(prepared, Path(folder) / name)
            find_stage(stage).load()(tiny_settings(changes), workspace)
            measured[name] = numbers(workspace.steps(stage))
    return measured


def differences(name: str, expected: Any, rows: Any, same: Callable[[Any, Any], bool]) -> list[str]:
    """One line for each recorded number that moved or is gone; new metrics are no concern of it."""
    if [row["step"] for row in expected] != [row["step"] for row in rows]:
        return [f"{name}: other steps"]
    return [
        f"{name}, step {row['step']}: {key} is {row.get(key)}, was {before[key]}"
        for before, row in zip(expected, rows, strict=True)
        for key in before
        if key not in row or not same(before[key], row[key])
    ]


def is_equal(before: Any, now: Any) -> bool:
    """To the bit."""
    return bool(before == now)


def is_close(before: Any, now: Any) -> bool:
    """As on another kind of machine."""
    if not isinstance(before, float):
        return bool(before == now)
    return abs(now - before) <= TOLERANCE * max(1.0, abs(before))


def run_apart(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this module in a process of its own, whose instruction set can still be chosen."""
    command = [sys.executable, "-m", "tests.golden", *arguments]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def main() -> int:
    """Compare, or record; gives 1 where a number moved."""
    if any(os.environ.get(name) != value for name, value in ENVIRONMENT.items()):
        done = run_apart(*sys.argv[1:])
        print(done.stdout, end="")
        print(done.stderr, end="", file=sys.stderr)
        return done.returncode
    stored = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}
    if sys.argv[1:2] == ["--write"]:
        stored["machine"] = machine()
        stored.setdefault("runs", {}).update(measure(sys.argv[2:]))
        FILE.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        return 0

    exact = stored["machine"] == machine()
    measured = measure(list(RUNS))
    same = is_equal if exact else is_close
    moved = [
        line
        for name, rows in measured.items()
        for line in differences(name, stored["runs"][name], rows, same)
    ]
    count = sum(len(row) for name in measured for row in stored["runs"][name])
    how = "to the bit" if exact else f"within {TOLERANCE:g}: recorded on {stored['machine']}"
    print("\n".join([*moved, f"{count} numbers compared, {len(moved)} moved ({how})"]))
    return int(bool(moved))


if __name__ == "__main__":
    sys.exit(main())
