"""One arm under one seed: a policy run in a workspace of its own, on the models that all arms of a study share."""

from pathlib import Path
from typing import Any

import yaml

from rlhf import policy
from rlhf.common.files import write_text
from rlhf.settings import settings_from
from rlhf.settings.edit import edited
from rlhf.studies.arms import ARMS
from rlhf.studies.measure import run_record
from rlhf.workspace import Workspace

SHARED = ("models/base", "models/sft", "models/reward", "models/gold", "data/prepared")


def run_arm(base: Workspace, root: Path, arm: str, seed: int) -> dict[str, Any]:
    """Train the policy of `arm` under `seed` in the directory `root`, and give its record.

    `base` holds the settings of the study and what the stages before ppo made of them, and gold. The seed is that of the
    policy run alone: all runs share prompts, models and judges. A run that was killed goes on from its checkpoint.
    """
    workspace = Workspace(root)
    for name in SHARED:
        link, target = root / name, (base.root / name).resolve()
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(target)
    text = edited(base.params.read_text(encoding="utf-8"), {**ARMS[arm], "seed": seed}, f"arm {arm}")
    write_text(workspace.params, text)
    settings = settings_from(yaml.safe_load(text), f"arm {arm}")
    policy.train(settings, workspace)
    return {
        "arm": arm,
        "seed": seed,
        "settings": settings.ppo.model_dump(mode="json"),
        **run_record(settings, workspace),
    }
