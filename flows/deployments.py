"""What Prefect's page offers to run: `python -m flows.deployments --cron "0 3 * * *"`.

The pipeline, each stage with all that it needs, and the studies are deployments there, whose
parameters are a form. `make ui` serves them; this command does it without the pages, and gives the
pipeline a schedule. One run at a time works in a workspace, the next one waits.
"""

import argparse
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import serve
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import RunnerDeployment
from prefect.types.entrypoint import EntrypointType

from flows.arguments import add_pools, add_settings, add_targets
from flows.dead_runs import end_dead_runs
from flows.pipeline import pipeline
from flows.stage import exit_code, prefect_server
from flows.study import study
from rlhf.common.address import without_credentials
from rlhf.common.files import read_json, write_json
from rlhf.stages import STAGES
from tasks.environment import records_root
from tasks.errors import BusyError
from tasks.execution import current_execution
from tasks.served import SERVED_ELSEWHERE, serving
from tasks.server import is_own

_STUDY = "The arms of figures of the paper, a seed each, and the page of findings."
_PIPELINE = "Bring the whole workspace up to date, through DVC: what is up to date is not run."


# -- what there is to run ---------------------------------------------------------------------------


def served_deployments(
    name: str = "pipeline",
    cron: str | None = None,
    parameters: dict[str, Any] | None = None,
    suffix: str = "",
    *,
    asked: bool = False,
) -> list[RunnerDeployment]:
    """List the pipeline, each stage and the studies, as deployments that are not registered yet.

    parameters: of the pipeline; asked: whether the user gave them
    suffix: of all names
    """
    pipeline_of_all = _deployment(pipeline, name + suffix, _PIPELINE, parameters or {}, cron=cron)
    if not asked:
        # what a user has set on Prefect's page stays
        pipeline_of_all.model_fields_set.discard("parameters")
    deployments = [
        pipeline_of_all,
        _deployment(study, "study" + suffix, _STUDY, {"figures": ["fig7"]}),
    ]
    for stage in STAGES.values():
        about = f"{stage.about}. With all stages that it needs, where they are not up to date."
        targets = {"targets": [stage.name]}
        deployments.append(_deployment(pipeline, stage.name + suffix, about, targets))
    return deployments


def name_suffix(root: Path, url: str) -> str:
    """Tell a workspace's deployments from others' by name, on a server that is not its own."""
    return "" if is_own(root, url) else f" ({socket.gethostname()}, {root.resolve().name})"


def _deployment(
    flow: Any, name: str, about: str, parameters: dict[str, Any], cron: str | None = None
) -> RunnerDeployment:
    deployment: RunnerDeployment = flow.to_deployment(
        name,
        cron=cron,
        description=about,
        parameters=parameters,
        tags=[workspace_tag(Path())],
        # in whatever directory this runs, not at a path of this machine
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    # an update sends what is set, and would take away schedules and pauses made on Prefect's page
    deployment.model_fields_set.discard("paused")
    if cron is None:
        deployment.model_fields_set.discard("schedules")
    return deployment


def workspace_tag(root: Path) -> str:
    """Tell the deployments of a workspace from others' on the same server."""
    return f"{socket.gethostname()}:{root.resolve()}"


def serve_here(root: Path, deployments: list[RunnerDeployment]) -> None:
    """Run what is due or asked for, until Ctrl-C; raises BusyError where another process does it."""
    with serving(root), schedules_resting(root):
        with get_client(sync_client=True) as client:
            ours = [deployment.id for deployment in _registered(client, root)]
            for line in end_dead_runs(client, ours):
                print(line, flush=True)
        # a second run would only wait for the first
        serve(*deployments, limit=1, pause_on_shutdown=False, print_starting_message=False)


@contextmanager
def schedules_resting(root: Path) -> Iterator[None]:
    """Pause after the block what would be late for want of somebody who runs it.

    When they are served again, those go on, and what a user has paused stays paused.
    """
    resting = records_root(root) / ".prefect" / "resting.json"
    if resting.exists():
        with get_client(sync_client=True) as client:
            for deployment in _registered(client, root):
                if str(deployment.id) in read_json(resting)["deployments"]:
                    client.resume_deployment(deployment.id)
        resting.unlink()
    try:
        yield
    finally:
        with get_client(sync_client=True) as client:
            active = [one for one in _registered(client, root) if not one.paused]
            write_json(resting, {"deployments": [str(deployment.id) for deployment in active]})
            for deployment in active:
                client.pause_deployment(deployment.id)


def _registered(client: SyncPrefectClient, root: Path) -> list[DeploymentResponse]:
    tags = DeploymentFilterTags(all_=[workspace_tag(root)])
    return client.read_deployments(deployment_filter=DeploymentFilter(tags=tags))


# -- the command ------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, then serve; exits with SERVED_ELSEWHERE where another process does."""
    options = _parser().parse_args(arguments)
    parameters = _parameters(options)
    with exit_code(), prefect_server(Path(), current_execution()) as url:
        address = without_credentials(url)
        print(f"Prefect: {address.removesuffix('/api')}")
        deployments = served_deployments(
            options.name,
            options.cron,
            parameters,
            name_suffix(Path(), url),
            asked=parameters != _parameters(_parser().parse_args([])),
        )
        print(f"Served: {', '.join(str(one.name) for one in deployments)}", flush=True)
        try:
            serve_here(Path(), deployments)
        except BusyError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(SERVED_ELSEWHERE) from None


def _parameters(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "targets": options.targets,
        "overrides": dict(options.set),
        "retries": options.retries,
        "retry_delay_seconds": options.retry_delay_seconds,
        "pools": dict(options.pool),
    }


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m flows.deployments", description=__doc__.split("\n", maxsplit=1)[0]
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
    add_pools(parser)
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
