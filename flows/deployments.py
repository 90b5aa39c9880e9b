"""Serve the pipeline as a Prefect deployment: `python -m flows.deployments --cron "0 3 * * *"`.

Without a work pool this process runs what is due, on this machine. With `--work-pool gpu` it only
registers the deployment with the server that PREFECT_API_URL names; `prefect worker start --pool gpu`
with the same PREFECT_API_URL, started in a clone on the machine with the GPUs, runs it. That clone has
to lie at the same path as the one that registers: the path is what Prefect keeps.
"""

import argparse
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.schedules import CronSchedule
from prefect.exceptions import ObjectAlreadyExists
from prefect.types.entrypoint import EntrypointType

from flows.arguments import add_settings, add_targets
from flows.pipeline import pipeline
from flows.stage import exit_code, prefect_server
from rlhf.common.address import without_credentials
from rlhf.common.errors import RlhfError
from tasks.execution import current_execution


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, then serve or register."""
    options = _parser().parse_args(arguments)
    parameters = {
        "targets": options.targets,
        "overrides": dict(options.set),
        "retries": options.retries,
        "retry_delay_seconds": options.retry_delay_seconds,
    }
    with exit_code():
        # a server of this process ends with it, and nobody is left to keep the schedule
        if options.work_pool and not os.environ.get("PREFECT_API_URL"):
            raise RlhfError(
                "--work-pool needs a server that stays: start one (make ui, or prefect server start)"
                " and set PREFECT_API_URL to its address, here and where the worker runs"
            )
    with exit_code(), prefect_server(Path(), current_execution()) as url:
        address = without_credentials(url)
        print(f"Prefect: {address.removesuffix('/api')}")
        if options.work_pool:
            register(options.name, options.work_pool, options.cron, parameters)
            worker = f"prefect worker start --pool {options.work_pool}"
            print(f"A worker runs it: PREFECT_API_URL={address} {worker}")
        else:
            pipeline.serve(
                options.name,
                cron=options.cron,
                parameters=parameters,
                # a second run would only wait for the first
                limit=1,
                entrypoint_type=EntrypointType.MODULE_PATH,
            )


def register(name: str, work_pool: str, cron: str | None, parameters: dict[str, Any]) -> None:
    """Register the deployment in a work pool of processes, making the pool where there is none."""
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=work_pool, type="process", concurrency_limit=1))
    source: Any = pipeline.from_source(
        source=str(Path.cwd()), entrypoint="flows/pipeline.py:pipeline"
    )
    source.deploy(
        name, work_pool_name=work_pool, cron=cron, parameters=parameters, build=False, push=False
    )


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m flows.deployments", description=__doc__.split("\n")[0]
    )
    add_targets(parser)
    parser.add_argument("--name", default="pipeline", help="name of the deployment")
    parser.add_argument(
        "--cron",
        type=_cron,
        help="when to run, for example '0 3 * * *'; without it only when asked to",
    )
    parser.add_argument(
        "--retries", type=int, default=2, help="how often a failed run is tried again"
    )
    parser.add_argument("--retry-delay-seconds", type=int, default=60)
    add_settings(parser, "change a setting first; may be repeated")
    parser.add_argument(
        "--work-pool", help="register for workers of this pool instead of serving here"
    )
    return parser


def _cron(text: str) -> str:
    try:
        return CronSchedule(cron=text).cron
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: five fields are needed, for example '0 3 * * *'"
        ) from None


if __name__ == "__main__":
    main()
