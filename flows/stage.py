"""What all stage flows share: how one is declared, and how `python -m flows.<stage>` runs it and ends."""

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
from prefect import Flow, flow
from prefect.exceptions import PrefectException, TerminationSignal
from prefect.settings import PREFECT_API_URL, temporary_settings

from rlhf.common.errors import RlhfError
from tasks.execution import Execution, current_execution
from tasks.guard import end_with, heed_hangup
from tasks.server import is_own, shared_server

P = ParamSpec("P")
_done: set[str] = set()  # stages whose whole body has run in this process


def stage_flow(function: Callable[P, None]) -> Flow[P, None]:
    """Declare a stage's flow, named as its function. Prefect caches and retries nothing here: DVC owns staleness.

    Its runs carry the name of their execution, as the MLflow runs do in the tag rlhf.execution.
    """

    @wraps(function)
    def body(*arguments: P.args, **named: P.kwargs) -> None:
        function(*arguments, **named)
        _done.add(function.__name__)

    name = function.__name__
    return flow(
        name=name, flow_run_name=lambda: f"{name}-{current_execution().key}", persist_result=False
    )(body)


def main(stage: Flow[P, None], *arguments: P.args, **named: P.kwargs) -> None:
    """Run a stage's flow in the current directory and exit: 0 done, 1 failed, 130 interrupted, 143 terminated.

    The worker's own words are on the log above; a failure adds one line, without a traceback. A Prefect server that
    is lost in mid-run costs its record of the run, not the stage.
    """
    if (
        not arguments and not named
    ):  # no argument is a stage's own: help is given, others are refused
        about = (stage.description or "").split("\n")[0]
        argparse.ArgumentParser(
            prog=f"python -m flows.{stage.name}", description=about
        ).parse_args()
    execution = current_execution()
    if execution.owner != psutil.Process():
        end_with(
            execution.owner
        )  # a killed `dvc repro` must not leave a trainer that writes into its outputs
    with exit_code(), prefect_server(Path(), execution):
        try:
            stage(*arguments, **named)
        except (httpx.HTTPError, PrefectException) as error:
            if stage.name not in _done:
                raise
            print(
                f"warning: {stage.name} is done, but Prefect could not be told: {error}",
                file=sys.stderr,
            )


@contextmanager
def prefect_server(root: Path, execution: Execution) -> Iterator[str]:
    """Use the workspace's Prefect server in the block and in processes started there; gives its address."""
    url = shared_server(root, execution.owner)
    _quiet_engine(links=not is_own(root, url))
    with temporary_settings({PREFECT_API_URL: url}):
        os.environ["PREFECT_API_URL"] = url
        yield url


@contextmanager
def exit_code() -> Iterator[None]:
    """Turn the way the block ends into the process' exit code; faults meant for the user are told in one line.

    From here on a closed terminal ends the process as SIGTERM does.
    """
    heed_hangup()
    try:
        yield
    except RlhfError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except TerminationSignal:
        print("terminated", file=sys.stderr)
        sys.exit(143)


def _quiet_engine(links: bool) -> None:
    """Keep the tracebacks that Prefect's engine logs at every level of a failed run off the terminal, not out of its UI.

    `exit_code` tells faults meant for the user; any other exception leaves with the one traceback of Python itself.
    Without `links` those to the run's page are kept off too: a server that goes with the run answers nobody later.
    """
    for handler in logging.getLogger().handlers:
        handler.addFilter(_told_once)
        if not links:
            handler.addFilter(_no_link)


def _no_link(entry: logging.LogRecord) -> bool:
    return not (entry.name == "prefect.flow_runs" and str(entry.msg).startswith("View at "))


def _told_once(entry: logging.LogRecord) -> bool:
    engine = entry.name in ("prefect.flow_runs", "prefect.task_runs")
    return not (
        engine and (entry.levelno >= logging.ERROR or "Finished in state" in str(entry.msg))
    )
