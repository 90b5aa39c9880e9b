"""The pipeline flow: bring the workspace up to date through DVC, by hand, on a schedule or from Prefect's UI.

A scheduled run and a `dvc repro` by hand give the same `dvc.lock`. The stages run as flows of their
own, under the same name of the execution and the same MLflow parent run as this one.
"""

import argparse
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.arguments import add_settings, add_targets
from flows.stage import exit_code, prefect_server
from rlhf.settings import load_settings
from rlhf.workspace import Workspace
from tasks.execution import current_execution, named_execution
from tasks.recording import record_execution
from tasks.repro import ReproFailed, repro
from tasks.tracking import best_effort


@flow(name="pipeline", persist_result=False)
def pipeline(
    targets: list[str] | None = None,
    overrides: dict[str, Any] | None = None,
    wait: bool = True,
    retries: int = 0,
    retry_delay_seconds: int = 60,
) -> None:
    """Bring the workspace up to date.

    Args:
        targets: stages to bring up to date with all that they need; all stages if empty
        overrides: settings to change in params.yaml first, by dotted key: {"ppo.kl.coefficient": 0.1}
        wait: wait for another run of this workspace; otherwise fail when there is one
        retries: how often a failed run is tried again; stages go on from their last checkpoints
        retry_delay_seconds: between tries
    """
    # the stages run in other processes, and record under this name
    execution = f"pipeline-{flow_run.id}"
    run_again = run_dvc.with_options(
        retries=retries,
        retry_delay_seconds=retry_delay_seconds,
        retry_condition_fn=_is_worth_another_try,
    )
    with named_execution(execution):
        run_again(targets or [], overrides or {}, wait)
        complete_record(execution)


@task(task_run_name="dvc repro", cache_policy=NO_CACHE)
def run_dvc(targets: list[str], overrides: dict[str, Any], wait: bool) -> None:
    """Let DVC run what is stale, its output in the log."""
    repro(Path(), targets, overrides, get_run_logger().info, wait=wait)


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
    options = parser.parse_args(arguments)
    with exit_code(), prefect_server(Path(), current_execution()):
        pipeline(options.targets, dict(options.set))


if __name__ == "__main__":
    main()
