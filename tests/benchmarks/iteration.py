"""What an iteration of each algorithm costs, beside PPO-max.

`python -m tests.benchmarks.iteration WORKSPACE` takes the models, prompts and settings of a workspace
whose reward model is trained, such as a study's (`studies/study`) or that of `dvc repro`. Each
algorithm runs twice, alone, with few and with more iterations: the difference is free of loading,
validation and saving. One that reads a model which is not there is left out, and named. `dpo` has no
iterations, `aihf-direct` draws nothing and has its seconds alone.
"""

import argparse
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from rlhf.core.steps import read_steps
from rlhf.settings.variants import VARIANTS
from rlhf.studies.run import OPTIONAL_STAGES, arm_workspace
from rlhf.training import loop
from rlhf.workspace import Workspace

ALGORITHMS = (
    "ppo-max",
    "apa",
    "rto",
    "process",
    "etpo",
    "rloo",
    "grpo",
    "reinforce-pp",
    "online-dpo",
    "xpo",
    "aihf",
    "aihf-direct",
)
# the first iterations of each run warm its caches up
FEW, MORE = 3, 9
# nothing but iterations between the two ends of a run
QUIET = {
    "ppo.samples_every": MORE,
    "ppo.checkpoint_every": MORE,
    "ppo.keep": "last",
    "ppo.keep_checkpoint": False,
    "ppo.alarm.action": "warn",
}


@dataclass(frozen=True)
class Cost:
    """Of one iteration.

    seconds: of all of it; sampling: share of them that the sampler takes, 0 to 1
    tokens: response tokens drawn
    """

    seconds: float
    sampling: float
    tokens: float

    @property
    def per_thousand(self) -> float | None:
        """Seconds for a thousand response tokens; None where none is drawn."""
        return 1000 * self.seconds / self.tokens if self.tokens else None


def measure(base: Workspace, name: str) -> Cost:
    """Run an algorithm as its variant has it, but with the learning rate of `base`."""
    changes = {key: value for key, value in VARIANTS[name].items() if key.startswith("ppo.")}
    few, _ = _run(base, changes | QUIET | {"ppo.iterations": FEW})
    more, rows = _run(base, changes | QUIET | {"ppo.iterations": MORE})
    count = MORE - FEW
    seconds = (more - few) / count
    last = rows[-count:]
    sampling = sum(row["rollout_seconds"] for row in last) / count / seconds
    return Cost(seconds, sampling, sum(row.get("tokens", 0.0) for row in last) / count)


def _run(base: Workspace, changes: Mapping[str, Any]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds of a policy run, and its iterations."""
    with tempfile.TemporaryDirectory() as folder:
        settings, workspace = arm_workspace(base, Path(folder) / "run", changes)
        began = monotonic()
        loop.train(settings, workspace)
        seconds = monotonic() - began
        # the last row has the final validation alone
        rows = [row for row in read_steps(workspace.steps("ppo")) if "rollout_seconds" in row]
        return seconds, rows


def _missing(base: Workspace, name: str) -> str | None:
    """The model that an algorithm reads and that the workspace has not."""
    needed = {"rto": "dpo", "process": "process"}.get(name)
    if needed in OPTIONAL_STAGES and not base.model(needed).is_dir():
        return f"models/{needed}"
    return None


def main() -> None:
    """Print one line for each algorithm."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.iteration", description=__doc__
    )
    parser.add_argument("workspace", type=Path)
    parser.add_argument("--only", nargs="+", choices=ALGORITHMS, default=ALGORITHMS)
    arguments = parser.parse_args()
    logging.getLogger("rlhf").setLevel(logging.WARNING)
    base = Workspace(arguments.workspace.resolve())
    print(
        f"{'algorithm':14} {'s/iteration':>11} {'tokens':>8} {'sampling':>9} {'s/1000':>8} ppo-max"
    )
    # the first run of a process loads libraries and warms the allocator
    _run(base, QUIET | {"ppo.iterations": FEW})
    reference: float | None = None
    for name in arguments.only:
        missing = _missing(base, name)
        if missing is not None:
            print(f"{name:14} needs {missing}", flush=True)
            continue
        cost = measure(base, name)
        line = f"{name:14} {cost.seconds:11.2f} {cost.tokens:8.0f} {cost.sampling:9.0%}"
        if cost.per_thousand is not None:
            reference = reference or cost.per_thousand
            line += f" {cost.per_thousand:8.2f} {cost.per_thousand / reference:6.2f}x"
        print(line, flush=True)


if __name__ == "__main__":
    main()
