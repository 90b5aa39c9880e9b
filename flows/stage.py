"""What all stage flows share: how one is declared, what it does, how `python -m flows.<stage>` ends."""

import argparse
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import httpx
import psutil
from prefect import Flow, flow, get_run_logger
from prefect.exceptions import PrefectException, TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings

from rlhf.common.command import TERMINATED, exit_on_fault
from rlhf.stages import STAGES
from tasks.execution import Execution, current_execution, has_lost_its_dvc
from tasks.guard import hangup_as_sigterm, terminate_with
from tasks.optional_stages import is_off, leave_empty, write_stand_ins
from tasks.prefect_api import refuse_unusable_prefect
from tasks.server import is_own, shared_server
from tasks.steps import record, register, run_worker, tracked_stage, write_key_figures
from tasks.tracking import TrackedRun

P = ParamSpec("P")

# flows whose whole body has run in this process
_done: set[str] = set()


def stage_flow(function: Callable[P, None]) -> Flow[P, None]:
    """Declare a stage's flow, named as its function.

    Prefect caches and retries nothing here: DVC owns staleness. Its runs carry the name of their
    execution, as the MLflow runs do in the tag rlhf.execution.
    """
    name = function.__name__

    @wraps(function)
    def body(*arguments: P.args, **named: P.kwargs) -> None:
        function(*arguments, **named)
        _done.add(name)

    # asked at each run: a flow that is served has many
    def run_name() -> str:
        return f"{name}-{current_execution().key}"

    return flow(name=name, flow_run_name=run_name, persist_result=False)(body)


def run_stage(name: str, *then: Callable[[TrackedRun], object]) -> None:
    """Do what the flow of a stage does, as the table of stages has it.

    Its worker runs, its key figures are written, what it wrote is recorded, its model registered; then come the tasks of this
    stage alone, which are given its run. One that the settings leave out does nothing of this: it leaves its outputs empty.
    """
    stage = STAGES[name]
    if is_off(Path(), name):
        leave_empty(Path(), name)
        get_run_logger().info("%s is off: %s is null in params.yaml", name, stage.optional)
        return
    with tracked_stage(name) as run:
        run_worker(run)
        write_key_figures(run)
        write_stand_ins(run.root, name)
        record(run, *stage.recorded)
        if stage.model is not None and stage.registered:
            register(run, stage.model, alias=stage.alias)
        for task in then:
            task(run)


def main(stage: Flow[P, None], *arguments: P.args, **named: P.kwargs) -> None:
    """Run a stage's flow in the current directory and exit.

    Exit codes: 0 done, 1 failed, 130 interrupted, 143 terminated. The worker's output is on the log
    above; a failure adds one line, without a traceback. A Prefect server that is lost in mid-run
    costs its record of the run, not the stage.
    """
    if not arguments and not named:
        _refuse_arguments(stage)
    execution = current_execution()
    if has_lost_its_dvc(execution):
        print(
            f"{stage.name}: the dvc that started it is gone; nothing is run "
            "(by hand, unset DVC_STAGE)",
            file=sys.stderr,
        )
        sys.exit(TERMINATED)
    if execution.owner != psutil.Process():
        # a killed `dvc repro` must not leave a trainer that writes into its outputs
        terminate_with(execution.owner)
    with exit_code(), prefect_server(Path(), execution):
        try:
            stage(*arguments, **named)
        except (httpx.HTTPError, PrefectException) as error:
            # Prefect may fail before the stage's work, too
            if stage.name not in _done:
                raise
            problem = f"{stage.name} is done, but Prefect could not be told: {error}"
            print(f"warning: {problem}", file=sys.stderr)


def _refuse_arguments(stage: Flow[P, None]) -> None:
    """A flow of a stage takes none: give help, refuse others."""
    about = (stage.description or "").split("\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m flows.{stage.name}", description=about)
    parser.parse_args()


@contextmanager
def exit_code() -> Iterator[None]:
    """Turn the way the block ends into the process' exit code, as `exit_on_fault` does.

    From here on a closed terminal ends the process as SIGTERM does.
    """
    hangup_as_sigterm()
    with exit_on_fault(terminated=(TerminationSignal,)):
        yield


def usable_server(root: Path, owner: psutil.Process) -> str:
    """The address of the Prefect server to use, as `shared_server` gives it.

    Raises RlhfError in one line where Prefect could not work with it.
    """
    url = shared_server(root, owner)
    if not is_own(root, url):
        refuse_unusable_prefect(url)
    return url


@contextmanager
def prefect_server(root: Path, execution: Execution) -> Iterator[str]:
    """Use the workspace's Prefect server in the block and in processes started there.

    Gives its address.
    """
    url = usable_server(root, execution.owner)
    _quiet_engine(links=not is_own(root, url))
    with temporary_settings({PREFECT_API_URL: url}):
        # for the stages that `dvc repro` starts
        os.environ["PREFECT_API_URL"] = url
        yield url


def _quiet_engine(links: bool) -> None:
    """Keep the tracebacks that Prefect's engine logs at every level of a failed run off the terminal.

    They stay in its UI. `exit_code` prints faults meant for the user; any other exception leaves with
    the one traceback of Python itself. Without `links` those to the run's page are kept off too: a
    server that goes with the run answers nobody later.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_no_engine_fault)
        if not links:
            handler.addFilter(_is_no_link)


def _is_no_engine_fault(entry: logging.LogRecord) -> bool:
    if entry.name not in ("prefect.flow_runs", "prefect.task_runs"):
        return True
    return entry.levelno < logging.ERROR and "Finished in state" not in str(entry.msg)


def _is_no_link(entry: logging.LogRecord) -> bool:
    return not (entry.name == "prefect.flow_runs" and str(entry.msg).startswith("View at "))
