"""A worker of a work pool: `python -m flows.pool_worker gpu`, in a clone on the machine with the GPUs.

The clone may lie anywhere. `pipeline` sends it stages: `--pool ppo=gpu`. A stage runs there as the flow
`pool_stage`, at the commit and with the settings of whoever sends it.
"""

import argparse
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.utilities.callables import parameter_schema

from flows.parameters import StageName
from flows.stage import exit_code
from rlhf.common.errors import RlhfError
from tasks.execution import named_execution
from tasks.orders import Order, fill_order

# where a worker's clone is, for the run that it starts
CLONE_VARIABLE = "RLHF_CLONE"
# whoever has sent the run takes a silent one for dead; Prefect allows no more often
HEARTBEAT_SECONDS = "30"
_HEARTBEAT = "PREFECT_FLOWS_HEARTBEAT_FREQUENCY"
_FENCE = "```"


@flow(name="pool_stage", flow_run_name="{stage}-{execution}", persist_result=False)
def pool_stage(stage: StageName, commit: str, params: str, lock: str, execution: str) -> None:
    """Run one stage in this clone and push what it writes.

    Args:
        stage: which one
        commit: of the code
        params: the text of params.yaml
        lock: the text of dvc.lock
        execution: under whose name MLflow and Prefect record it
    """
    with named_execution(execution):
        order = Order(stage, commit, params, lock)
        entry = fill_order(Path(), order, get_run_logger().info)
    # text over the API: no file system is shared, and nothing is pickled
    create_markdown_artifact(f"{_FENCE}yaml\n{entry}{_FENCE}", key="dvc-lock", description=stage)


def lock_entry(markdown: str) -> str:
    """Give the entry of dvc.lock that the flow has left as an artifact."""
    return markdown.removeprefix(f"{_FENCE}yaml\n").removesuffix(_FENCE)


def register_pool(client: SyncPrefectClient, pool: str) -> None:
    """Make the pool and its deployment `pool_stage/<pool>`, where there is none."""
    with suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    step = "prefect.deployments.steps.set_working_directory"
    clone: dict[str, Any] = {step: {"directory": f"{{{{ ${CLONE_VARIABLE} }}}}"}}
    client.create_deployment(
        client.create_flow(pool_stage),
        pool,
        work_pool_name=pool,
        entrypoint="flows/pool_worker.py:pool_stage",
        pull_steps=[clone],
        description="One stage in the clone of a worker of this pool; pipeline sends it there.",
        parameter_openapi_schema=parameter_schema(pool_stage).model_dump(),
    )


def main(arguments: list[str] | None = None) -> None:
    """Become a worker of a pool, whose runs work in this clone."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m flows.pool_worker", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("pool", help="the work pool, for example gpu")
    options = parser.parse_args(arguments)
    with exit_code():
        if not os.environ.get("PREFECT_API_URL"):
            raise RlhfError("set PREFECT_API_URL to the address of the server that sends the runs")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            problem = (
                "MLFLOW_TRACKING_URI is not set: what runs here is recorded in this clone alone"
            )
            print(f"warning: {problem}", file=sys.stderr)
        with get_client(sync_client=True) as client:
            register_pool(client, options.pool)
        command = [sys.executable, "-m", "prefect", "worker", "start"]
        # a clone has room for one run at a time; other workers of the pool have clones of their own
        command += ["--pool", options.pool, "--type", "process", "--limit", "1"]
        own = {CLONE_VARIABLE: str(Path.cwd()), _HEARTBEAT: HEARTBEAT_SECONDS}
        os.execve(sys.executable, command, os.environ | own)


if __name__ == "__main__":
    main()
