"""A study's workspace below `studies/`, a DVC repository of its own.

Its stages are those of the chain that all arms share, one an arm, and the findings.
What is asked for is written as data (`params.yaml`, `arms/<arm>.yaml`) and what follows from it as
`dvc.yaml`, so that DVC knows which arms are done. Cache and records (MLflow, Prefect) are those of
the workspace around it.
"""

import statistics
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from rlhf.common.errors import RlhfError, SettingsError
from rlhf.common.files import read_json, write_text
from rlhf.common.yaml import parse_yaml, read_yaml, write_yaml
from rlhf.core.source import unwatched
from rlhf.registry import ALGORITHMS, module_of
from rlhf.settings import flatten, settings_from
from rlhf.settings.edit import edited
from rlhf.settings.reads import OPTIONAL_MODELS
from rlhf.settings.variants import VARIANTS
from rlhf.stage import Stage
from rlhf.stages import STAGES
from rlhf.watched import filled_in, refuse_unwatched
from tasks import tracking
from tasks.artifacts import show_table, summary_rows
from tasks.environment import STUDIES_FOLDER
from tasks.metric_names import SUMMARY, key_figures, named_curves, under
from tasks.missed import attempt
from tasks.run_page import artifact_key
from tasks.tracking import TrackedRun

# what all arms share
SHARED_STAGES = tuple(name for name, stage in STAGES.items() if stage.shared_by_arms)

# linked into the study, not reached by `..`: what .dvcignore names is ignored only below it
_LINKED = ("rlhf", "requirements.lock")
_DVC_CONFIG = """# A repository of DVC alone, with the cache of the workspace around it.
[core]
    analytics = false
    autostage = false
    check_update = false
    no_scm = true
[cache]
    dir = ../../../.dvc/cache
"""
_ARM_MODULE = "rlhf.studies.run"
# what an arm's record has beside the key figures of the stage ppo
_JUDGED = ("gold_first", "gold_last", "reward_tail_first", "reward_tail_last", "plain_text_loss")
_FINDINGS_CODE = ("requirements.lock", "rlhf/report", "rlhf/studies")


def arm_stage(arm: str) -> str:
    """Name the DVC stage of an arm: DVC allows no dots."""
    return f"arm-{arm.replace('.', '_')}"


# -- laying it out --------------------------------------------------------------------------------


def lay_out(
    root: Path,
    name: str,
    settings: str,
    arms: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    figures: Sequence[str],
    finished: Collection[str] = (),
) -> Path:
    """Write the workspace of the study `name` and give its directory.

    What is unchanged is not written again.

    settings: the text of its params.yaml
    arms: the changes of each arm (dotted key -> value)
    finished: arms of an earlier study, which keep the seeds they had

    Raises RlhfError without seeds, and when `root` holds no chain to derive the stages from.
    """
    if not seeds:
        raise RlhfError("a study needs at least one seed (--seeds 3)")
    chain = chain_of(root)

    # 1. a repository of DVC, with the code of the one around it
    study = lay_out_repository(root, name)

    # 2. what is asked for
    settings = with_optional_sections(settings, arms)
    write_changed(study / "params.yaml", settings)
    for arm, changes in arms.items():
        plan = study / "arms" / f"{arm}.yaml"
        # other seeds would make a finished arm stale
        former = _planned_seeds(plan) if arm in finished else None
        content = {"seeds": former or list(seeds), "changes": dict(changes)}
        write_changed(plan, write_yaml(content))

    # 3. what follows from it
    stages = study_stages(chain, arms, figures)
    for arm, changes in arms.items():
        _refuse_unwatched_arm(arm, edited(settings, changes, arm), stages[arm_stage(arm)]["deps"])
    write_changed(study / "dvc.yaml", write_yaml({"stages": stages}))
    adopt_results(root / "dvc.lock", study / "dvc.lock")
    return study


def lay_out_repository(root: Path, name: str) -> Path:
    """Make `studies/<name>` a repository of DVC with the code and the cache of the one around it; gives its directory."""
    study = root / STUDIES_FOLDER / name
    write_changed(study / ".dvc" / "config", _DVC_CONFIG)
    write_changed(study / ".dvc" / ".gitignore", "/tmp\n/config.local\n")
    write_changed(study / ".dvcignore", (root / ".dvcignore").read_text(encoding="utf-8"))
    for path in _LINKED:
        _link(study / path, Path("../..") / path)
    return study


def chain_of(root: Path) -> dict[str, Any]:
    """The stages of the chain as `dvc.yaml` has them; raises RlhfError where there is none."""
    chain = root / "dvc.yaml"
    if not chain.is_file():
        raise RlhfError(f"{chain}: no such file; a study runs inside a clone of the project")
    stages: dict[str, Any] = read_yaml(chain)["stages"]
    return stages


def with_optional_sections(settings: str, arms: Mapping[str, Mapping[str, Any]]) -> str:
    """Switch the optional stages on whose models some arm reads, as the variants do; one that is on stays."""
    sections = {
        model: VARIANTS[algorithm][model]
        for algorithm in map(_algorithm, arms.values())
        for model in OPTIONAL_MODELS.get(algorithm, ())
    }
    return edited(settings, sections, "settings of the study") if sections else settings


def _algorithm(changes: Mapping[str, Any]) -> str:
    """The algorithm that an arm changes to; "" where it is that of the study's settings."""
    return str(changes.get("ppo.algorithm", ""))


def _planned_seeds(plan: Path) -> list[int] | None:
    """The seeds of an arm's plan; None where it is missing or was spoilt by hand."""
    try:
        return [int(seed) for seed in read_yaml(plan)["seeds"]]
    except (FileNotFoundError, SettingsError, KeyError, TypeError, ValueError):
        return None


def _link(link: Path, target: Path) -> None:
    # an earlier study has made it
    with suppress(FileExistsError):
        link.symlink_to(target)
    if not link.is_symlink() or link.readlink() != target:
        raise RlhfError(f"{link}: not the link to {target} that a study has here; remove it")


def adopt_results(chain_lock: Path, study_lock: Path) -> None:
    """Give a new study the results of the workspace around it.

    DVC checks them out of the common cache. Whether they fit (settings, code, data) is for DVC to
    see; it runs what does not.
    """
    if study_lock.exists() or not chain_lock.is_file():
        return
    lock = read_yaml(chain_lock)
    done = lock["stages"]
    shared = {name: done[name] for name in SHARED_STAGES if name in done}
    write_text(study_lock, write_yaml(lock | {"stages": shared}))


def write_changed(path: Path, text: str) -> None:
    """Write a file unless it holds that text already."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


def study_stages(
    chain: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]], figures: Sequence[str]
) -> dict[str, Any]:
    """Derive the study's stages from those of the chain."""
    read = {model for changes in arms.values() for model in _shared_models(changes)}
    stages = {
        name: without_stand_ins(stage, chain[name])
        for name, stage in STAGES.items()
        if name in SHARED_STAGES or stage.model in read
    }
    for arm, changes in arms.items():
        stages[arm_stage(arm)] = {
            "desc": f"The arm {arm}, every seed",
            "cmd": f"python -m flows.arm {arm}",
            "deps": _arm_deps(chain, changes),
            # null: every key of the file is a parameter
            "params": [*_arm_params(chain, changes), {f"arms/{arm}.yaml": None}],
            "outs": [f"runs/{arm}.json"],
        }
    stages["findings"] = {
        "desc": "Hold what the paper found to the runs, and draw its figures",
        "cmd": f"python -m flows.findings {' '.join(figures)}",
        "deps": [*_FINDINGS_CODE, *(f"runs/{arm}.json" for arm in arms)],
        "outs": ["reports/index.html", "reports/findings.json"],
        "metrics": ["metrics/findings.json"],
    }
    return stages


def _refuse_unwatched_arm(arm: str, text: str, deps: Sequence[str]) -> None:
    settings = settings_from(parse_yaml(text, arm))
    refuse_unwatched("ppo", settings, filled_in(deps, settings))


def _arm_deps(chain: Mapping[str, Any], changes: Mapping[str, Any]) -> list[str]:
    """What an arm reads and runs: the deps of the stage ppo, the judge, and the code of studies."""
    judge_code = [path for path in chain["gold"]["deps"] if path.startswith(_LINKED)]
    deps = {*chain["ppo"]["deps"], *judge_code, "models/gold"}
    deps |= {path.as_posix() for path in unwatched([_ARM_MODULE], deps)}
    algorithm = _algorithm(changes)
    if _optional_models(changes):
        # the models themselves: those files beside its links that stand for them are the chain's own
        deps = {path for path in deps if "${ppo.algorithm}" not in path}
        code = unwatched([module_of(ALGORITHMS, algorithm)], deps)
        deps |= {f"models/{model}" for model in _shared_models(changes)}
        deps |= {path.as_posix() for path in code}
    elif algorithm:
        # the study's params.yaml, from which DVC fills this in, does not know the arm's algorithm
        deps = {path.replace("${ppo.algorithm}", algorithm) for path in deps}
    for stage in _own_stages(changes):
        deps |= {*chain[stage.name]["deps"]}
    return sorted(deps)


def _arm_params(chain: Mapping[str, Any], changes: Mapping[str, Any]) -> list[Any]:
    """The params of the stage ppo, and of what an arm runs before it."""
    own = [key for stage in _own_stages(changes) for key in chain[stage.name]["params"]]
    return list(dict.fromkeys([*chain["ppo"]["params"], *own]))


def _own_stages(changes: Mapping[str, Any]) -> list[Stage]:
    """The optional stages that an arm runs itself, one a seed: it changes their sections."""
    sections = {key.partition(".")[0] for key in changes}
    return [stage for stage in STAGES.values() if stage.optional in sections]


def _optional_models(changes: Mapping[str, Any]) -> tuple[str, ...]:
    """The optional models that an arm's algorithm reads."""
    return OPTIONAL_MODELS.get(_algorithm(changes), ())


def _shared_models(changes: Mapping[str, Any]) -> set[str]:
    """Those of them that the study's own stages make."""
    return {*_optional_models(changes)} - {str(stage.model) for stage in _own_stages(changes)}


def without_stand_ins(stage: Stage, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A stage's entry without the files that it writes beside code, which is the workspace's around it."""
    outs = [out for out in entry["outs"] if out not in stage.stand_ins]
    return {**entry, "outs": outs}


# -- recording an arm -----------------------------------------------------------------------------


@task(task_run_name="record {name}", cache_policy=NO_CACHE)
def record_arm(run: TrackedRun, name: str) -> None:
    """Log an arm in MLflow: its changes, its record, curves and summary as means over seeds."""
    files = [_results(run, name), _arm_settings(run, name)]
    warn = get_run_logger().warning
    attempt(run, f"the results of {name}", warn, log_arm, files, name=name)
    summary = mean_metrics([seed["summary"] for seed in read_json(files[0])["runs"]])
    show_table(artifact_key(run.stage, "metrics"), summary_rows(summary, "mean over seeds"), name)


def log_arm(run: TrackedRun, name: str) -> None:
    """Log an arm's changes, record and means."""
    path = _results(run, name)
    seeds: list[dict[str, Any]] = read_json(path)["runs"]
    changes = read_yaml(_arm_settings(run, name))["changes"]
    summary = mean_metrics([seed["summary"] for seed in seeds])
    client = tracking.client_of(run.root)
    params = {f"arm.{key}": value for key, value in flatten(changes).items()}
    tracking.log_params(client, run.run_id, params)
    tracking.log_missing_metrics(client, run.run_id, _arm_metrics(seeds, summary))
    client.log_artifact(run.run_id, str(path), "runs")


def _results(run: TrackedRun, name: str) -> Path:
    return run.root / "runs" / f"{name}.json"


def _arm_settings(run: TrackedRun, name: str) -> Path:
    return run.root / "arms" / f"{name}.yaml"


def _arm_metrics(seeds: Sequence[Mapping[str, Any]], summary: Mapping[str, float]) -> list[Metric]:
    """The means over seeds by iteration and validation, and each seed's own key figures.

    Under the names of the stage `ppo`: arms and single runs then share their charts.
    """
    metrics = tracking.metrics_of(under(SUMMARY, _key_figures(summary)), 0)
    for means in _mean_rows(seeds, "curves"):
        metrics += tracking.metrics_of(named_curves("ppo", means), int(means["step"]))
    for means in _mean_rows(seeds, "looks"):
        step = int(means.pop("step"))
        metrics += tracking.metrics_of(under("validation", means), step)
    for seed in seeds:
        group = f"seed-{seed['seed']}"
        metrics += tracking.metrics_of(under(group, _key_figures(seed["summary"])), 0)
    return metrics


def _key_figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    judged = {key: summary[key] for key in _JUDGED if key in summary}
    return key_figures("ppo", summary) | judged


def _mean_rows(seeds: Sequence[Mapping[str, Any]], key: str) -> list[dict[str, float]]:
    # a seed that was stopped has fewer rows
    return [mean_metrics(rows) for rows in zip(*(seed[key] for seed in seeds), strict=False)]


def mean_metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean over rows of every number that all of them have."""
    means = {}
    for key in rows[0]:
        values = [row.get(key) for row in rows]
        numbers = [float(value) for value in values if isinstance(value, int | float)]
        if len(numbers) == len(rows):
            means[key] = statistics.fmean(numbers)
    return means
