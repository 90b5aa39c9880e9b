"""One arm of a study: a policy run a seed, each in a workspace of its own, on the models that all arms share.

`python -m rlhf.studies.run ARM` in a study's workspace reads `arms/<arm>.yaml` and writes `runs/<arm>.json`.
"""

import logging
import multiprocessing
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rlhf.common.command import guarded
from rlhf.common.errors import DataError, SettingsError
from rlhf.common.files import write_json, write_text
from rlhf.common.yaml import parse_yaml, read_yaml
from rlhf.settings import settings_from
from rlhf.settings.edit import edited
from rlhf.settings.read import settings_text
from rlhf.studies.measure import run_record
from rlhf.training import loop
from rlhf.workspace import Workspace

SHARED = ("models/base", "models/sft", "models/reward", "models/gold", "data/prepared")


def run_arm(base: Workspace, arm: str) -> None:
    """Train the policies of `arms/<arm>.yaml` ({"seeds": [...], "changes": {dotted key: value}}) and keep their records.

    The seeds run side by side; one that was killed goes on from its checkpoint.
    """
    plan = base.root / "arms" / f"{arm}.yaml"
    try:
        content = read_yaml(plan)
        seeds, changes = [int(seed) for seed in content["seeds"]], dict(content["changes"])
    except FileNotFoundError:
        raise DataError(plan, "no such file; `python -m flows.study` writes it") from None
    except (SettingsError, KeyError, TypeError, ValueError) as error:
        raise DataError(plan, f"expected seeds and changes: {error}") from None
    folder = base.root / ".arms"
    runs = side_by_side(base, folder, arm, changes, seeds)
    write_json(base.root / "runs" / f"{arm}.json", {"arm": arm, "changes": changes, "runs": runs})
    for seed in seeds:
        shutil.rmtree(folder / f"{arm}-{seed}", ignore_errors=True)


def side_by_side(
    base: Workspace, folder: Path, arm: str, changes: Mapping[str, Any], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """The records of all seeds, each trained in a process of its own; on a GPU one after the other."""
    workers = 1 if torch.cuda.is_available() else min(len(seeds), 2 * (os.cpu_count() or 1))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # the libraries are imported once
    one = partial(run_seed, base, folder, arm, changes)
    with ProcessPoolExecutor(workers, context) as pool:
        return list(pool.map(one, seeds))


def run_seed(
    base: Workspace, folder: Path, arm: str, changes: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Train the policy of an arm under `seed` below `folder`, and give its record.

    `base` holds the settings of the study and what the stages before ppo made of them, and gold. The seed is that of the
    policy run alone: all runs share prompts, models and judges.
    """
    logging.basicConfig(
        level=logging.WARNING,
        format=f"{arm}, seed {seed}: %(message)s",
        stream=sys.stderr,
        force=True,
    )
    logging.getLogger("rlhf").setLevel(logging.INFO)
    workspace = Workspace(folder / f"{arm}-{seed}")
    for name in SHARED:
        link, target = workspace.root / name, (base.root / name).resolve()
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(target)
    where = f"arm {arm}"
    text = edited(settings_text(base.params), {**changes, "seed": seed}, where)
    write_text(workspace.params, text)
    settings = settings_from(parse_yaml(text, where), where)
    loop.train(settings, workspace)
    return {
        "seed": seed,
        "settings": settings.ppo.model_dump(mode="json"),
        **run_record(settings, workspace),
    }


if __name__ == "__main__":
    sys.exit(guarded(lambda: run_arm(Workspace(Path()), sys.argv[1])))
