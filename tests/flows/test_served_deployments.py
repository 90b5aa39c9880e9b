"""What Prefect's page can do with the deployments that `make ui` serves, by the calls that the page makes."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlhf.common.yaml import read_yaml
from rlhf.stages import STAGES
from rlhf.workspace import Workspace
from tests.prefect_page import Page
from tests.project_copy import Project
from tests.waiting import SECONDS, kill_below, processes_below, wait_until

# long enough to be cancelled
LONG = {"sft.epochs": 400.0, "sft.checkpoint_every": 5}
SHORTER = {"sft.epochs": 1.0}


@pytest.fixture(scope="module")
def project(changed_chain: Project) -> Project:
    """The finished chain, with a Prefect server of its own."""
    return Project(changed_chain.root)


@pytest.fixture(scope="module")
def page(project: Project) -> Iterator[Page]:
    try:
        with opened_page(project) as page:
            yield page
    finally:
        kill_below(project.root)


@contextmanager
def opened_page(project: Project) -> Iterator[Page]:
    """Prefect's page while `make ui` runs."""
    # a minute is the usual
    soon = {"PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "2"}
    interfaces = project.start(sys.executable, "-m", "flows.ui", **soon)
    assert interfaces.stdout is not None
    # Prefect's address, MLflow's, and how to stop both, once they answer
    lines = [interfaces.stdout.readline() for _ in range(3)]
    assert "Ctrl-C" in lines[-1], lines
    page = Page(lines[0].split()[-1])
    wait_until(lambda: len(page.deployments()) == len(STAGES) + 2, "not all are served")
    # each is told to be ready once its runner has looked
    wait_until(
        lambda: all(one["status"] == "READY" for one in page.deployments().values()),
        "nobody serves them",
    )
    yield page
    interfaces.terminate()
    interfaces.communicate(timeout=SECONDS)
    wait_until(lambda: not processes_below(project.root), "something is left of make ui")


def worker(project: Project) -> psutil.Process | None:
    for process in processes_below(project.root):
        try:
            if "rlhf.commands.worker" in process.cmdline():
                return process
        except psutil.Error:
            continue
    return None


def test_all_are_there_with_a_form_that_offers_what_there_is(page: Page) -> None:
    served = page.deployments()
    assert set(served) == {"pipeline", "study", *STAGES}
    form = served["pipeline"]["parameter_openapi_schema"]["properties"]
    assert "stages to bring up to date" in form["targets"]["description"]
    text = json.dumps(served["pipeline"]["parameter_openapi_schema"])
    for choice in ("laptop", "hh-small", "apa", "ppo-max", *STAGES):
        assert f'"{choice}"' in text
    assert served["sft"]["parameters"] == {"targets": ["sft"]}
    assert STAGES["sft"].about in served["sft"]["description"]


def test_what_the_form_does_not_offer_is_refused(page: Page) -> None:
    path = f"/deployments/{page.deployments()['pipeline']['id']}/create_flow_run"
    with pytest.raises(AssertionError, match="laptopp"):
        page.post(path, {"parameters": {"preset": "laptopp"}, "state": {"type": "SCHEDULED"}})


@pytest.mark.long
def test_a_quick_run_goes_through_dvc_and_shows_its_results(project: Project, page: Page) -> None:
    before = (project.root / "dvc.lock").read_text()
    run = page.run("report", {"targets": ["report"], "overrides": {"report.dialogues": 3}})
    wait_until(
        lambda: page.state(run) not in ("SCHEDULED", "PENDING", "RUNNING"), "it does not end"
    )
    assert page.state(run) == "COMPLETED"
    assert (project.root / "dvc.lock").read_text() != before
    assert project.ran(project.repro("report")) == []
    results = page.artifacts()
    assert "report-results" in results
    assert "MLflow: this run" in results["report-results"]["data"]
    # a stage without steps of its own
    assert float(results["report-progress"]["data"]) == 100


def test_a_schedule_runs_its_stage_by_itself(project: Project, page: Page) -> None:
    deployment = page.deployments()["fetch"]["id"]
    soon = datetime.now(UTC) + timedelta(seconds=10)
    daily = {"interval": 24 * 3600.0, "anchor_date": soon.isoformat()}
    (made,) = page.post(
        f"/deployments/{deployment}/schedules", [{"active": True, "schedule": daily}]
    )

    def first() -> dict[str, Any] | None:
        runs = page.post(
            "/flow_runs/filter", {"flow_runs": {"deployment_id": {"any_": [deployment]}}}
        )
        due = [run for run in runs if run["auto_scheduled"] and run["state_type"] != "SCHEDULED"]
        return due[0] if due else None

    wait_until(lambda: first() is not None, "no run of the schedule begins")
    wait_until(
        lambda: (first() or {})["state_type"] not in ("PENDING", "RUNNING"), "it does not end"
    )
    run = first()
    assert run is not None and run["state_type"] == "COMPLETED"
    page.delete(f"/deployments/{deployment}/schedules/{made['id']}")


@pytest.mark.long
def test_cancelling_ends_the_training_and_a_retry_resumes_it(project: Project, page: Page) -> None:
    run = page.run("sft", {"targets": ["sft"], "overrides": LONG})
    checkpoints = Workspace(project.root).checkpoints / "sft"
    wait_until(lambda: list(checkpoints.glob("*/*")), "sft wrote no checkpoint")
    wait_until(
        lambda: float(page.artifacts().get("sft-progress", {}).get("data") or 0) > 0,
        "no progress is shown",
    )
    found = worker(project)
    assert found is not None

    page.set_state(run, "CANCELLING", "Cancelling")
    wait_until(lambda: not found.is_running(), "the training goes on")
    wait_until(lambda: page.state(run) == "CANCELLED", "it is not cancelled")
    wait_until(lambda: worker(project) is None, "a worker is left")

    log = project.root / "logs" / "sft.log"
    page.set_state(run, "SCHEDULED", "AwaitingRetry")
    wait_until(lambda: worker(project) is not None, "it is not tried again")
    wait_until(lambda: "resum" in log.read_text(), "it begins anew")
    page.set_state(run, "CANCELLING", "Cancelling")
    wait_until(lambda: page.state(run) == "CANCELLED", "it is not cancelled")


@pytest.mark.long
def test_a_preset_takes_the_place_of_the_settings_which_are_kept(
    project: Project, page: Page
) -> None:
    params = project.root / "params.yaml"
    edited = params.read_text()
    run = page.run("pipeline", {"targets": ["prepare"], "preset": "tiny", "variant": "ppo-max"})
    wait_until(
        lambda: page.state(run) not in ("SCHEDULED", "PENDING", "RUNNING"), "it does not end"
    )
    assert page.state(run) == "COMPLETED"
    assert read_yaml(params)["ppo"]["ptx"] is None
    kept = [path.read_text() for path in Path(project.root, "logs").glob("params-*.yaml")]
    assert edited in kept


@pytest.mark.long
def test_schedules_and_pauses_outlive_the_pages(changed_chain: Project) -> None:
    """After all others: it closes the pages and opens them anew."""
    project = Project(changed_chain.root)
    kill_below(project.root)
    nightly = {"active": True, "schedule": {"cron": "0 3 * * *", "timezone": "UTC"}}
    with opened_page(project) as page:
        served = page.deployments()
        page.post(f"/deployments/{served['sft']['id']}/schedules", [nightly])
        page.post(f"/deployments/{served['ppo']['id']}/pause_deployment")
    with opened_page(project) as page:
        served = page.deployments()
        (schedule,) = served["sft"]["schedules"]
        assert (schedule["active"], schedule["schedule"]["cron"]) == (True, "0 3 * * *")
        assert [name for name, one in served.items() if one["paused"]] == ["ppo"]
