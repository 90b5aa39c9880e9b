"""A study's workspace below `studies/`: a DVC repository of its own whose stages are those of the chain and one an arm.

What is asked for is written as data (`params.yaml`, `arms/<arm>.yaml`) and what follows from it as `dvc.yaml`, so that
DVC knows which arms are done. Cache and records (MLflow, Prefect) are those of the workspace around it.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from prefect import get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectException

from rlhf.common.errors import RlhfError, SettingsError
from rlhf.common.files import read_json, write_text
from rlhf.common.yaml import read_yaml, write_yaml
from rlhf.settings import flatten
from tasks import tracking
from tasks.environment import STUDIES
from tasks.tracking import StageRun

CHAIN = ("fetch", "prepare", "sft", "reward", "gold")  # what all arms share
_CODE = (
    "rlhf",
    "requirements.lock",
)  # linked into the study: what .dvcignore names is ignored only below it
_CONFIG = """# A repository of DVC alone, with the cache of the workspace around it.
[core]
    analytics = false
    autostage = false
    check_update = false
    no_scm = true
[cache]
    dir = ../../../.dvc/cache
"""


def stage_of(arm: str) -> str:
    """Name the DVC stage of an arm: DVC allows no dots."""
    return f"arm-{arm.replace('.', '_')}"


def lay_out(
    root: Path,
    name: str,
    settings: str,
    arms: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    figures: Sequence[str],
    finished: Collection[str] = (),
) -> Path:
    """Write the workspace of the study `name` and give its directory; what is unchanged is left alone.

    `settings` is the text of its params.yaml, `arms` the changes of each arm (dotted key -> value). The arms of an earlier
    study that are `finished` keep the seeds they had.
    Raises RlhfError without seeds, and when `root` holds no chain to derive the stages from.
    """
    if not seeds:
        raise RlhfError("a study needs at least one seed (--seeds 3)")
    chain = root / "dvc.yaml"
    if not chain.is_file():
        raise RlhfError(f"{chain}: no such file; a study runs inside a clone of the project")
    study = root / STUDIES / name
    write_changed(study / ".dvc" / "config", _CONFIG)
    write_changed(study / ".dvc" / ".gitignore", "/tmp\n/config.local\n")
    write_changed(study / ".dvcignore", (root / ".dvcignore").read_text(encoding="utf-8"))
    for code in _CODE:
        _link(study / code, Path("../..") / code)
    write_changed(study / "params.yaml", settings)
    for arm, changes in arms.items():
        plan = study / "arms" / f"{arm}.yaml"
        own = _planned_seeds(plan) if arm in finished else None
        content = {"seeds": own or list(seeds), "changes": dict(changes)}
        write_changed(plan, write_yaml(content))
    stages = study_stages(read_yaml(chain)["stages"], list(arms), figures)
    write_changed(study / "dvc.yaml", write_yaml({"stages": stages}))
    take_over(root / "dvc.lock", study / "dvc.lock")
    return study


def _planned_seeds(plan: Path) -> list[int] | None:
    """The seeds of an arm's plan; None where there is none, or one that was spoilt by hand."""
    try:
        return [int(seed) for seed in read_yaml(plan)["seeds"]]
    except (FileNotFoundError, SettingsError, KeyError, TypeError, ValueError):
        return None


def _link(link: Path, target: Path) -> None:
    with suppress(FileExistsError):
        link.symlink_to(target)
    if not link.is_symlink() or link.readlink() != target:
        raise RlhfError(f"{link}: not the link to {target} that a study has here; remove it")


def take_over(chain: Path, study: Path) -> None:
    """Tell a new study of the stages that the workspace around it has run: DVC checks them out of the common cache.

    Whether they fit (settings, code, data) is for DVC to see; what does not is run.
    """
    if study.exists() or not chain.is_file():
        return
    lock = read_yaml(chain)
    known = {name: lock["stages"][name] for name in CHAIN if name in lock["stages"]}
    write_text(study, write_yaml(lock | {"stages": known}))


def write_changed(path: Path, text: str) -> None:
    """Write a file unless it says that already."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def study_stages(
    chain: Mapping[str, Any], arms: Sequence[str], figures: Sequence[str]
) -> dict[str, Any]:
    """Derive the study's stages from those of the chain: the shared ones, one an arm, and the findings."""
    ppo, gold = chain["ppo"], chain["gold"]
    stages = {name: dict(chain[name]) for name in CHAIN}
    judge = [path for path in gold["deps"] if path.startswith(_CODE)]
    own = ["rlhf/evaluation/plain_text.py", "rlhf/studies/measure.py", "rlhf/studies/run.py"]
    deps = sorted({*ppo["deps"], *judge, "models/gold", *own})
    for arm in arms:
        stages[stage_of(arm)] = {
            "desc": f"The arm {arm}, every seed",
            "cmd": f"python -m flows.arm {arm}",
            "deps": deps,
            "params": [*ppo["params"], {f"arms/{arm}.yaml": None}],
            "outs": [f"runs/{arm}.json"],
        }
    report = ["requirements.lock", "rlhf/report", "rlhf/studies"]
    stages["findings"] = {
        "desc": "Hold what the paper found to the runs, and draw its figures",
        "cmd": f"python -m flows.findings {' '.join(figures)}",
        "deps": [*report, *(f"runs/{arm}.json" for arm in arms)],
        "outs": ["reports/index.html", "reports/findings.json"],
        "metrics": ["metrics/findings.json"],
    }
    return stages


@task(task_run_name="record {name}", cache_policy=NO_CACHE)
def record_arm(run: StageRun, name: str) -> None:
    """Log an arm in MLflow: its changes, the curves and the summary as means over seeds, every seed's own, the record."""
    path = run.root / "runs" / f"{name}.json"
    runs = read_json(path)["runs"]
    changes = read_yaml(run.root / "arms" / f"{name}.yaml")["changes"]
    summary = means([one["summary"] for one in runs])
    with tracking.tolerated(f"the results of {name}", get_run_logger().warning):
        client = tracking.client_of(run.root)
        tracking.log_params(
            client, run.run_id, {f"arm.{key}": value for key, value in flatten(changes).items()}
        )
        metrics = tracking.metrics_of(summary, 0, prefix="summary.")
        for key in ("curves", "looks"):
            for rows in zip(*(one[key] for one in runs), strict=False):
                metrics += tracking.metrics_of(
                    means(rows), int(rows[0]["step"]), prefix="look." * (key == "looks")
                )
        for one in runs:
            metrics += tracking.metrics_of(one["summary"], 0, prefix=f"seed-{one['seed']}.")
        tracking.log_metrics(client, run.run_id, metrics)
        client.log_artifact(run.run_id, str(path), "runs")
    shown = [{"metric": key, "mean over seeds": value} for key, value in sorted(summary.items())]
    with suppress(
        httpx.HTTPError, PrefectException
    ):  # a Prefect server that was lost must not cost the arm
        create_table_artifact(
            shown, key=f"{run.stage.lower().replace('_', '-')}-metrics", description=name
        )


def means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean over rows of every number that all of them have."""
    return {
        key: statistics.fmean(float(row[key]) for row in rows)
        for key, value in rows[0].items()
        if isinstance(value, int | float)
        and all(isinstance(row.get(key), int | float) for row in rows)
    }
