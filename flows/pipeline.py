"""The pipeline flow: bring the workspace up to date through DVC, by hand, on a schedule or from Prefect's UI.

A scheduled run and a `dvc repro` by hand give the same `dvc.lock`. The stages run as flows of their
own, under the same name of the execution and the same MLflow parent run as this one.
"""

import argparse
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.arguments import add_pools, add_settings, add_targets
from flows.parameters import PresetName, Retries, Seconds, StageName, VariantName
from flows.pools import SILENCE_SECONDS, send_stages
from flows.stage import exit_code, prefect_server
from rlhf.common.files import write_text
from rlhf.settings import load_settings, preset_text
from rlhf.settings.edit import edited
from rlhf.settings.variants import VARIANTS
from rlhf.workspace import Workspace
from tasks.execution import current_execution, named_execution
from tasks.recording import record_execution
from tasks.repro import (
    ReproFailed,
    dvc_repro,
    override,
    refuse_settings,
    settings_changed,
    workspace_held,
)
from tasks.steps import LOGS
from tasks.tracking import best_effort


@flow(name="pipeline", persist_result=False)
def pipeline(
    targets: list[StageName] | None = None,
    preset: PresetName | None = None,
    variant: VariantName | None = None,
    overrides: dict[str, Any] | None = None,
    wait: bool = True,
    retries: Retries = 0,
    retry_delay_seconds: Seconds = 60,
    pools: dict[StageName, str] | None = None,
    worker_silence_seconds: Seconds = SILENCE_SECONDS,
) -> None:
    """Bring the workspace up to date.

    Settings that it writes are put back where it ends before one of its stages has finished.

    Args:
        targets: stages to bring up to date with all that they need; all stages if empty
        preset: settings to put into params.yaml first; what it held is kept in logs/
        variant: an algorithm, as changes to these settings
        overrides: settings to change in params.yaml then, by dotted key: {"ppo.kl.coefficient": 0.1}
        wait: wait for another run of this workspace; otherwise fail when there is one
        retries: how often a failed run is tried again; stages go on from their last checkpoints
        retry_delay_seconds: between tries
        pools: stages that a worker of a work pool runs, in a clone of its own: {"ppo": "gpu"}
        worker_silence_seconds: after which a worker is taken for dead, and another takes its stage up
    """
    # the stages run in other processes, and record under this name
    execution = f"pipeline-{flow_run.id}"
    run_again = run_dvc.with_options(
        retries=retries,
        retry_delay_seconds=retry_delay_seconds,
        retry_condition_fn=_is_worth_another_try,
    )
    changes = {**(VARIANTS[variant] if variant else {}), **(overrides or {})}
    with named_execution(execution):
        run_again(targets or [], preset, changes, wait, pools or {}, worker_silence_seconds)
        complete_record(execution)


@task(task_run_name="dvc repro", cache_policy=NO_CACHE)
def run_dvc(
    targets: list[str],
    preset: str | None,
    changes: dict[str, Any],
    wait: bool,
    pools: dict[str, str],
    worker_silence_seconds: int,
) -> None:
    """Let DVC run what is stale, its output in the log; each try writes its settings anew."""
    root, on_line = Path(), get_run_logger().info
    change = partial(override, root, changes)
    if preset is not None:
        change = partial(adopt_preset, root, preset, changes)
    with workspace_held(root, on_line, wait=wait), settings_changed(root, change, on_line):
        send_stages(root, targets, pools, on_line, worker_silence_seconds, wait=wait)
        dvc_repro(root, targets, on_line, wait=wait)


def adopt_preset(root: Path, preset: str, changes: Mapping[str, Any]) -> None:
    """Put a changed preset into params.yaml, and what it held into logs/; raises SettingsError."""
    # refused before anything is written
    text = edited(preset_text(preset), changes, f"preset {preset}")
    refuse_settings(root, text, f"preset {preset}")
    params = Workspace(root).params
    if params.exists() and params.read_text(encoding="utf-8") != text:
        kept = root / LOGS / f"params-{time.strftime('%Y%m%d-%H%M%S')}.yaml"
        kept.parent.mkdir(exist_ok=True)
        shutil.copyfile(params, kept)
        get_run_logger().info("%s is kept as %s", params, kept)
    write_text(params, text)


@task(task_run_name="complete the MLflow record", cache_policy=NO_CACHE)
def complete_record(execution: str) -> None:
    """Bring the figures of stages that were up to date into the execution's MLflow run."""
    # overrides may have changed the experiment
    settings = load_settings(Workspace().params)
    with best_effort("the execution", get_run_logger().warning):
        record_execution(Path(), settings.experiment, execution)


def _is_worth_another_try(_task: Any, _run: Any, state: Any) -> bool:
    """A stage may fail for want of memory or a network.

    Refused settings and a busy workspace stay what they are.
    """
    return isinstance(state.result(raise_on_failure=False), ReproFailed)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run the flow."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m flows.pipeline", description=__doc__.split("\n")[0]
    )
    add_targets(parser)
    add_settings(parser, "change a setting in params.yaml first; may be repeated")
    add_pools(parser)
    parser.add_argument(
        "--worker-silence-seconds",
        type=int,
        default=SILENCE_SECONDS,
        help=f"after which a pool's worker is taken for dead (default {SILENCE_SECONDS})",
    )
    options = parser.parse_args(arguments)
    with exit_code(), prefect_server(Path(), current_execution()):
        pipeline(
            options.targets,
            overrides=dict(options.set),
            pools=dict(options.pool),
            worker_silence_seconds=options.worker_silence_seconds,
        )


if __name__ == "__main__":
    main()
