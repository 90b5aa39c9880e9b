"""Do the numbers stand still? `python -m tests.golden` trains the tiny models and compares with tests/golden.json.

The file holds what the stages sft, reward and ppo logged, summed up and saved at commit 685e110, before
the rooms were rebuilt, and for apa when it joined. Each run names the kind of machine that it was
recorded on: there every number must be equal to the bit, and the model to the byte; on another one,
close. A run may show more than was recorded, never less. `--write NAME ...` records runs anew, after a
change that is meant to move them.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
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
# Another machine's sums are in another order, and training makes more of that. On two threads without
# AVX (ATEN_CPU_CAPABILITY=default) no number moves by more than 3e-6 + 1e-6 of itself, a ninth of what
# these allow. A KL of 1e-3 that moves by a twentieth is noticed.
RELATIVE, ABSOLUTE = 2e-4, 2e-5

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
VANILLA: dict[str, Any] = {
    "ppo.kl": None,
    "ppo.reward": {"normalise": None, "scale": None, "clip": None},
    "ppo.value_clip": None,
    "ppo.critic.pretraining_iterations": 0,
    "ppo.ptx": None,
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
    "vanilla": ("ppo", VANILLA),
    "apa": ("ppo", APA),
}
MODELS = {"sft": "sft", "reward": "reward", "ppo": "policy"}


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


# -- a run and what it shows -----------------------------------------------------------------------


def measure(names: list[str]) -> dict[str, Any]:
    """What each run shows: its step log and summary, without times, and the hash of its model."""
    sys.path.insert(0, str(ROOT / "tests" / "rlhf"))
    from tiny import copy_workspace, make_workspace, numbers, tiny_settings

    from rlhf.common.files import tree_sha256
    from rlhf.stages import find_stage

    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        prepared = make_workspace(Path(folder) / "prepared")
        for name in names:
            stage, changes = RUNS[name]
            workspace = copy_workspace(prepared, Path(folder) / name)
            find_stage(stage).load()(tiny_settings(changes), workspace)
            (summary,) = numbers(workspace.metrics(stage))
            measured[name] = {
                "machine": machine(),
                "model": tree_sha256(workspace.model(MODELS[stage])),
                "summary": summary,
                "steps": numbers(workspace.steps(stage)),
            }
    return measured


def shown(run: Mapping[str, Any]) -> dict[str, Any]:
    """All that a run shows, by where it stands."""
    steps = {
        f"step {row['step']}, {key}": value for row in run["steps"] for key, value in row.items()
    }
    summary = {f"summary, {key}": value for key, value in run["summary"].items()}
    return {
        "steps": [row["step"] for row in run["steps"]],
        **steps,
        **summary,
        "model": run["model"],
    }


# -- comparing -------------------------------------------------------------------------------------


def differences(name: str, stored: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One line for each thing that was recorded and moved, or is missing."""
    before, now = shown(stored), shown(found)
    same = is_equal
    if stored["machine"] != found["machine"]:
        same = is_close
        # rounding is in every byte of it
        del before["model"]
    lines = []
    for place, value in before.items():
        if place not in now:
            lines.append(f"{name}, {place}: missing, was {value}")
        elif not same(value, now[place]):
            lines.append(f"{name}, {place} is {now[place]}, was {value}")
    return lines


def is_equal(before: Any, now: Any) -> bool:
    """To the bit."""
    return bool(before == now)


def is_close(before: Any, now: Any) -> bool:
    """As on another kind of machine."""
    if not isinstance(before, float) or not isinstance(now, float):
        return bool(before == now)
    return abs(now - before) <= ABSOLUTE + RELATIVE * abs(before)


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
        stored |= measure(sys.argv[2:])
        FILE.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        return 0

    measured = measure(list(RUNS))
    moved = [
        line for name, run in measured.items() for line in differences(name, stored[name], run)
    ]
    count = sum(len(shown(run)) for run in stored.values())
    elsewhere = [name for name, run in stored.items() if run["machine"] != machine()]
    how = (
        f"close is enough, as recorded elsewhere: {', '.join(elsewhere)}"
        if elsewhere
        else "to the bit"
    )
    print("\n".join([*moved, f"{count} numbers compared, {len(moved)} moved ({how})"]))
    return int(bool(moved))


if __name__ == "__main__":
    sys.exit(main())
