"""The pictures of the documents: `python -m tests.pictures [WORKSPACE]` writes .github/img anew.

flow.svg is drawn from the table of stages. With a finished workspace its report, and MLflow's and
Prefect's pages as `python -m flows.ui` shows them there, are photographed by Chromium. For the latter
a schedule is set and runs are started in the workspace, which changes its settings: use a copy.
`--study studies/study neighbours` photographs the panels of a figure of a study instead.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

import httpx
from playwright.sync_api import Page, sync_playwright

from rlhf.core.source import ROOT
from rlhf.settings import load_settings
from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tests.flow_picture import flow_svg
from tests.prefect_page import Page as PrefectPage
from tests.waiting import wait_until

IMAGES = ROOT / ".github/img"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1440, "height": 1080}
# more than the workspace has trained, so that there is something to do, long enough to be looked at
MORE_EPOCHS = 200.0
# per cent
PROGRESS = 4.0
# until a page has asked for what it shows, and drawn it
SETTLED_MS = 6_000


def main() -> None:
    """Draw and photograph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", nargs="?", type=Path, help="where `make repro` has ended")
    parser.add_argument("--study", nargs=2, metavar=("WORKSPACE", "FIGURE"))
    options = parser.parse_args()
    IMAGES.mkdir(parents=True, exist_ok=True)
    if options.study is not None:
        study, figure = options.study
        photograph_study(Path(study).resolve(), figure)
        return
    workspace: Path | None = options.workspace
    (IMAGES / "flow.svg").write_text(flow_svg(), encoding="utf-8")
    if workspace is not None:
        photograph(workspace.resolve())


def photograph(workspace: Path) -> None:
    """The pages of a workspace; runs of sft are started there, cancelled and tried again."""
    with interfaces(workspace) as (prefect, mlflow), browser_page() as page:
        take(page, "report", (workspace / "reports/index.html").as_uri())
        for name, place in mlflow_pages(mlflow).items():
            take(page, name, f"{mlflow}/#{place}")
        for name, place in prefect_pages(prefect, workspace):
            take(page, name, f"{prefect}{place}")


def photograph_study(workspace: Path, figure: str) -> None:
    """The panels of a figure, which its page shows side by side."""
    with browser_page() as page:
        page.goto((workspace / "reports/index.html").as_uri())
        path = IMAGES / f"study-{figure}.png"
        page.locator(f"#{figure} .grid").screenshot(path=path)
        print(path)


@contextmanager
def browser_page() -> Iterator[Page]:
    """A window of Chromium."""
    path = next((found for name in CHROMIUM if (found := which(name))), None)
    if path is None:
        sys.exit(f"none of {', '.join(CHROMIUM)} is on the path")
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser.new_page(viewport=SIZE)


def take(page: Page, name: str, address: str) -> None:
    """One picture of what a window shows."""
    page.goto(address)
    page.wait_for_timeout(SETTLED_MS)
    # MLflow opens an assistant beside everything
    for close in page.get_by_label("Close").all():
        if close.is_visible():
            close.click()
    page.screenshot(path=IMAGES / f"{name}.png")
    print(IMAGES / f"{name}.png")


def mlflow_pages(mlflow: str) -> dict[str, str]:
    """The pages of MLflow that compare: all runs, the last policies, the last policy's version."""
    names = f"{mlflow}/api/2.0/mlflow"
    experiments = httpx.post(f"{names}/experiments/search", json={"max_results": 100}).json()
    ids = [one["experiment_id"] for one in experiments["experiments"]]
    query = {"experiment_ids": ids, "filter": "tags.`mlflow.runName` = 'ppo'"}
    found = httpx.post(f"{names}/runs/search", json=query).json()["runs"]
    experiment = found[0]["info"]["experiment_id"]
    table = "workflowType=machine_learning"
    return {
        "mlflow-runs": f"/experiments/{experiment}/runs?{table}",
        "mlflow-compare": f"/experiments/{experiment}/runs?{table}&compareRunsMode=CHART",
        "mlflow-model": f"/models/{last_policy(names)}",
    }


def last_policy(names: str) -> str:
    """The name and version of the policy that was registered last, as MLflow's address has them."""
    query = {"max_results": 1000, "order_by": "last_updated_timestamp DESC"}
    versions = httpx.get(f"{names}/model-versions/search", params=query).json()["model_versions"]
    policy = next(one for one in versions if one["name"].endswith("-policy"))
    return f"{policy['name']}/versions/{policy['version']}"


def prefect_pages(prefect: str, workspace: Path) -> Iterator[tuple[str, str]]:
    """The pages of Prefect, each given once it shows what it is for."""
    api = PrefectPage(prefect)
    served = "the deployments are not served"
    wait_until(lambda: len(api.deployments()) == len(STAGES) + 2, served)
    nightly = {"active": True, "schedule": {"cron": "0 3 * * *", "timezone": "UTC"}}
    pipeline = api.deployments()["pipeline"]["id"]
    if not api.deployments()["pipeline"]["schedules"]:
        api.post(f"/deployments/{pipeline}/schedules", [nightly])
    yield "prefect-deployments", "/deployments"

    epochs = load_settings(Workspace(workspace).params).sft.epochs + MORE_EPOCHS
    longer = {"sft.epochs": epochs, "sft.checkpoint_every": 5}
    run = api.run("sft", {"targets": ["sft"], "overrides": longer})
    wait_until(lambda: progress(api, run) > PROGRESS, "no progress")
    yield "prefect-progress", f"/runs/flow-run/{stage_run(api, run)}?tab=Artifacts"

    api.set_state(run, "CANCELLING", "Cancelling")
    wait_until(lambda: api.state(run) == "CANCELLED", "it is not cancelled")
    yield "prefect-cancelled", f"/runs/flow-run/{run}"

    api.set_state(run, "SCHEDULED", "AwaitingRetry")
    log = workspace / "logs" / "sft.log"
    wait_until(lambda: api.state(run) == "RUNNING" and "resum" in log.read_text(), "no retry")
    yield "prefect-retried", f"/runs/flow-run/{run}"
    api.set_state(run, "CANCELLING", "Cancelling")
    wait_until(lambda: api.state(run) == "CANCELLED", "it is not cancelled")


def stage_run(api: PrefectPage, run: str) -> str | None:
    """The run of the stage that a run of the deployment started."""
    wanted = {"flow_runs": {"name": {"any_": [f"sft-pipeline-{run}"]}}}
    found = api.post("/flow_runs/filter", wanted)
    return found[0]["id"] if found else None


def progress(api: PrefectPage, run: str) -> float:
    """How far the training is, in per cent."""
    artifact = api.artifacts().get("sft-progress")
    # an earlier run has left one, too
    if artifact is None or artifact["flow_run_id"] != stage_run(api, run):
        return 0.0
    return float(artifact["data"])


@contextmanager
def interfaces(workspace: Path) -> Iterator[tuple[str, str]]:
    """The addresses of Prefect's and MLflow's pages while the block runs."""
    command = [sys.executable, "-m", "flows.ui"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=workspace, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _address(process, "Prefect"), _address(process, "MLflow")
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate()


def _address(process: subprocess.Popen[str], name: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(rf"{name}\s+(http\S+)", line):
            return found[1]
    sys.exit(f"python -m flows.ui ended before it named {name}'s address")


if __name__ == "__main__":
    main()
