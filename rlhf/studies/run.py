"""One arm of a study: a policy run a seed, each in a workspace of its own.

The models that come before the policy are those that all arms share.

`python -m rlhf.studies.run ARM` in a study's workspace reads `arms/<arm>.yaml` and writes
`runs/<arm>.json`.
"""

import logging
import multiprocessing
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlhf import registry
from rlhf.common.command import run_as_command
from rlhf.common.errors import DataError, RlhfError, SettingsError
from rlhf.common.files import write_json, write_text
from rlhf.common.yaml import parse_yaml, read_yaml
from rlhf.settings import Settings, settings_from
from rlhf.settings.edit import edited
from rlhf.settings.read import settings_text
from rlhf.studies.measure import run_record
from rlhf.training import loop
from rlhf.workspace import Workspace

SHARED = ("models/base", "models/sft", "models/reward", "models/gold", "data/prepared")
# there where some arm of the study reads their models; each is named as its section and its model
OPTIONAL_STAGES = {"dpo": "rlhf.training.dpo:train", "process": "rlhf.training.process:train"}


@dataclass(frozen=True)
class ArmPlan:
    """What `arms/<arm>.yaml` asks for: a policy run for each seed, with these changed settings.

    changes: dotted key -> value
    """

    arm: str
    seeds: tuple[int, ...]
    changes: Mapping[str, Any]


def read_plan(base: Workspace, arm: str) -> ArmPlan:
    """Read an arm's plan; raises DataError that names its file."""
    path = base.root / "arms" / f"{arm}.yaml"
    try:
        content = read_yaml(path)
        seeds = tuple(int(seed) for seed in content["seeds"])
        return ArmPlan(arm, seeds, dict(content["changes"]))
    except FileNotFoundError:
        raise DataError(path, "no such file; `python -m flows.study` writes it") from None
    except (SettingsError, KeyError, TypeError, ValueError) as error:
        raise DataError(path, f"expected seeds and changes: {error}") from None


def run_arm(base: Workspace, arm: str) -> None:
    """Train the policies of an arm and write their records, `runs/<arm>.json`.

    The seeds run side by side; one that was killed goes on from its checkpoint.
    """
    plan = read_plan(base, arm)
    folder = base.root / ".arms"
    runs = side_by_side(base, folder, arm, plan.changes, plan.seeds)
    record = {"arm": arm, "changes": plan.changes, "runs": runs}
    write_json(base.root / "runs" / f"{arm}.json", record)
    # models and checkpoints, of which the record holds all that counts
    for seed in plan.seeds:
        shutil.rmtree(folder / f"{arm}-{seed}", ignore_errors=True)


def side_by_side(
    base: Workspace, folder: Path, arm: str, changes: Mapping[str, Any], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """The records of all seeds, each trained in a process of its own; on a GPU one after the other."""
    workers = min(len(seeds), 2 * (os.cpu_count() or 1))
    # several runs would share its memory
    if torch.cuda.is_available():
        workers = 1
    context = multiprocessing.get_context("forkserver")
    # the libraries are imported once
    context.set_forkserver_preload([__name__])
    run_one = partial(run_seed, base, folder, arm, changes)
    with ProcessPoolExecutor(workers, context) as pool:
        return list(pool.map(run_one, seeds))


def run_seed(
    base: Workspace, folder: Path, arm: str, changes: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Train the policy of an arm under `seed` below `folder`, and give its record.

    `base` holds the settings of the study and what the stages before ppo made of them, and gold. The
    seed is that of the policy run alone: all runs share prompts, models and judges.
    """
    _log_as(f"{arm}, seed {seed}")
    settings, workspace = arm_workspace(base, folder / f"{arm}-{seed}", {**changes, "seed": seed})
    for name in own_stages(changes):
        registry.find(OPTIONAL_STAGES, name)(settings, workspace)
    loop.train(settings, workspace)
    return {
        "seed": seed,
        "settings": settings.ppo.model_dump(mode="json"),
        **run_record(settings, workspace),
    }


def arm_workspace(
    base: Workspace, folder: Path, changes: Mapping[str, Any]
) -> tuple[Settings, Workspace]:
    """A workspace in `folder` with the models that all arms share, and with the changed settings."""
    # 1. links to the models
    workspace = Workspace(folder)
    own = own_stages(changes)
    shared = [f"models/{name}" for name in OPTIONAL_STAGES if name not in own]
    there = [name for name in shared if (base.root / name).is_dir()]
    for name in (*SHARED, *there):
        link = workspace.root / name
        link.parent.mkdir(parents=True, exist_ok=True)
        # a run that was killed has made it
        if not link.is_symlink():
            link.symlink_to((base.root / name).resolve())

    # 2. its settings
    title = f"arm {folder.name}"
    text = edited(settings_text(base.params), dict(changes), title)
    write_text(workspace.params, text)
    return settings_from(parse_yaml(text, title), title), workspace


def own_stages(changes: Mapping[str, Any]) -> list[str]:
    """The optional stages whose sections an arm changes: each of its seeds runs them itself."""
    sections = {key.partition(".")[0] for key in changes}
    return [name for name in OPTIONAL_STAGES if name in sections]


def _log_as(name: str) -> None:
    """Begin this process' log lines with the run that they are about."""
    logging.basicConfig(
        level=logging.WARNING, format=f"{name}: %(message)s", stream=sys.stderr, force=True
    )
    logging.getLogger("rlhf").setLevel(logging.INFO)


def main(arguments: list[str]) -> int:
    """Run the arm named on the command line; gives the exit code."""
    return run_as_command(partial(_run, arguments))


def _run(arguments: Sequence[str]) -> None:
    if len(arguments) != 1:
        raise RlhfError("usage: python -m rlhf.studies.run ARM")
    run_arm(Workspace(Path()), arguments[0])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
