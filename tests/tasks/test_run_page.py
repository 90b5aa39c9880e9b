"""A run's page in Prefect: names that it takes, and an MLflow that went away costs links alone."""

import re
from pathlib import Path

import pytest
from prefect.client.schemas.actions import ArtifactCreate
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from rlhf.stages import STAGES
from rlhf.studies.arms import ARMS
from tasks.lineage import Lineage
from tasks.run_page import artifact_key, show_results
from tasks.study import arm_stage
from tasks.tracking import TrackedRun


@pytest.mark.parametrize("stage", [*STAGES, "findings", *map(arm_stage, ARMS)])
def test_prefect_takes_the_key_of_every_stage_and_arm(stage: str) -> None:
    key = artifact_key(stage, "progress")
    assert re.fullmatch("[a-z0-9-]+", key)
    assert ArtifactCreate(key=key).key == key


def test_no_server_has_to_answer_for_a_stage_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unanswered: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@{unanswered}")
    lineage = Lineage("c0ffee", False, "5e77")
    run = TrackedRun("ppo", tmp_path, "run", "parent", "experiment", lineage, "1")
    nobody = {PREFECT_API_URL: f"http://{unanswered}/api", PREFECT_CLIENT_MAX_RETRIES: 0}
    with temporary_settings(nobody):
        show_results(run, {"reward_last": 0.5})
