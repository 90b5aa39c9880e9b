"""A study of one of the paper's figures, run by its command in a clone."""

import json
import sys

import pytest

from rlhf.studies.figures import STUDIES
from tasks.tracking import client_of
from tests.flows.records import newest
from tests.project_copy import Project

COMMAND = (sys.executable, "-m", "flows.study", "fig4", "--preset", "tiny", "--seeds", "2")


@pytest.mark.long
def test_a_study_takes_over_the_models_of_the_chain_and_draws_what_its_arm_gives(
    copied_chain: Project,
) -> None:
    assert "Running stage 'arm-vanilla'" in copied_chain.run(*COMMAND)
    study = copied_chain.root / "studies" / "tiny"
    assert not (study / "logs" / "gold.log").exists()
    runs = json.loads((study / "runs" / "vanilla.json").read_text())["runs"]
    assert [run["seed"] for run in runs] == [1, 2]
    findings = json.loads((study / "reports" / "findings.json").read_text())["findings"]
    claims = STUDIES["fig4"].claims
    assert [row["metric"] for row in findings] == [claim.metric for claim in claims]
    assert all(row["seeds"] == 2 for row in findings)
    page = (study / "reports" / "index.html").read_text()
    assert STUDIES["fig4"].title in page and "<svg" in page
    arm = newest(client_of(copied_chain.root), "arm-vanilla")
    assert arm.info.status == "FINISHED"
    assert {"seed-1/kl_last", "seed-2/kl_last", "summary/kl_last"} <= arm.data.metrics.keys()
