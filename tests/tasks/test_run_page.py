"""A run's page in Prefect: names that it takes, and an MLflow that went away costs links alone."""

import re
from pathlib import Path

import pytest
from prefect.client.schemas.actions import ArtifactCreate
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from rlhf.common.files import write_json
from rlhf.stages import STAGES
from rlhf.studies.arms import ARMS
from rlhf.workspace import Workspace
from tasks import run_page
from tasks.lineage import Lineage
from tasks.run_page import artifact_key, show_results
from tasks.study import arm_stage
from tasks.tracking import TrackedRun


def run_of(stage: str, root: Path) -> TrackedRun:
    lineage = Lineage("c0ffee", False, "5e77")
    return TrackedRun(stage, root, "run", "parent", "experiment", lineage, "1")


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The rows of the tables that Prefect would show, by the key of the artifact."""
    shown: dict[str, list[str]] = {}

    def show(markdown: str, key: str, description: str) -> None:
        shown[key] = [line for line in markdown.splitlines() if line.startswith("|")]

    monkeypatch.setattr(run_page, "create_markdown_artifact", show)
    return shown


def test_a_stage_shows_its_key_figures(tmp_path: Path, pages: dict[str, list[str]]) -> None:
    summary = {"kl_last": 0.0912345, "collapsed": False, "reward_first": None, "clip_max": 1.0}
    show_results(run_of("ppo", tmp_path), summary)
    assert pages["ppo-results"] == [
        "| figure | value |",
        "|---|---|",
        "| kl_last | 0.09123 |",
        "| collapsed | no |",
    ]


def test_the_report_measures_nothing_and_shows_what_all_stages_did(
    tmp_path: Path, pages: dict[str, list[str]]
) -> None:
    write_json(Workspace(tmp_path).metrics("fetch"), {"bytes": 12345})
    write_json(Workspace(tmp_path).metrics("ppo"), {"collapsed": True, "kl_last": None})
    show_results(run_of("report", tmp_path), {})
    assert pages["report-results"] == [
        "| stage | figure | value |",
        "|---|---|---|",
        "| fetch | bytes | 12,345 |",
        "| ppo | collapsed | yes |",
    ]


def test_where_nothing_was_measured_there_is_no_table(
    tmp_path: Path, pages: dict[str, list[str]]
) -> None:
    # one without key figures
    show_results(run_of("prepare", tmp_path), {"rows": 7})
    show_results(run_of("report", tmp_path), {})
    assert pages == {"prepare-results": [], "report-results": []}


@pytest.mark.parametrize("stage", [*STAGES, "findings", *map(arm_stage, ARMS)])
def test_prefect_takes_the_key_of_every_stage_and_arm(stage: str) -> None:
    key = artifact_key(stage, "progress")
    assert re.fullmatch("[a-z0-9-]+", key)
    assert ArtifactCreate(key=key).key == key


def test_no_server_has_to_answer_for_a_stage_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unanswered: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@{unanswered}")
    run = run_of("ppo", tmp_path)
    nobody = {PREFECT_API_URL: f"http://{unanswered}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(nobody):
        show_results(run, {"reward_last": 0.5})
