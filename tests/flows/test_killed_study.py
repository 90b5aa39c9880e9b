"""A study of the paper's figures, run by its command in a clone: killed in the middle, gone on with, then run again."""

import json
import os
from pathlib import Path

import pytest

from tasks.tracking import client_of
from tests.project_copy import Project
from tests.waiting import SECONDS, kill_below, wait_until

SETTINGS = {"ppo.iterations": 8, "ppo.checkpoint_every": 2, "ppo.samples_every": 8}
COMMAND = (
    *("python", "-m", "flows.study", "fig12", "--preset", "tiny"),
    *("--seeds", "2", "--first-seed", "5"),
    *(word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")),
)

# every Python that finds it imports it: where HOLD_ARMS is set, policy runs stop in mid-course
SITECUSTOMIZE = """
import os, time

if "HOLD_ARMS" in os.environ:
    from rlhf.core.steps import StepLog

    write = StepLog.write

    def write_and_hold(log, step, values):
        write(log, step, values)
        if log.path.name == "ppo.jsonl" and step == 5:
            time.sleep(3600)

    StepLog.write = write_and_hold
"""


def kill_once(project: Project, scratch: Path, pattern: str) -> None:
    """Start the study; when a path has come, kill all that works on it, as a power cut would.

    Its runs are held behind that path, or on a busy machine they might be finished by then.
    """
    scratch.mkdir()
    (scratch / "sitecustomize.py").write_text(SITECUSTOMIZE)
    path = f"{scratch}{os.pathsep}{project.root}"
    run = project.start(*COMMAND, PYTHONPATH=path, HOLD_ARMS="1")
    wait_until(
        lambda: list(project.root.glob(pattern)) or run.poll() is not None, f"no {pattern} came"
    )
    assert run.poll() is None, run.communicate()[0]
    kill_below(project.root)
    run.communicate(timeout=SECONDS)


@pytest.mark.long
def test_a_killed_study_goes_on_where_its_seeds_were_and_a_finished_one_runs_nothing(
    copied_chain: Project, tmp_path: Path
) -> None:
    project = copied_chain
    study = project.root / "studies" / "tiny"
    # a complete checkpoint: beside it lie `best` and the one in the making, from which nothing resumes
    checkpoint = "studies/tiny/.arms/ppo-max-5/.checkpoints/ppo/*/step-*/"
    kill_once(project, tmp_path / "holding", checkpoint)
    assert not (study / "runs" / "ppo-max.json").exists()

    # the models of the finished chain were taken over
    assert not (study / "logs" / "gold.log").exists()
    output = project.run(*COMMAND)
    assert "Stage 'gold' didn't change" in output and "Running stage 'arm-ppo-ptx'" in output
    assert (
        "ppo-max, seed 5: resuming from" in output
        and "ppo-ptx, seed 5: resuming from" not in output
    )
    for arm in ("ppo-max", "ppo-ptx"):
        runs = json.loads((study / "runs" / f"{arm}.json").read_text())["runs"]
        assert [run["seed"] for run in runs] == [5, 6]
        assert all([row["step"] for row in run["curves"]][-8:] == list(range(8)) for run in runs)
    (row,) = json.loads((study / "reports" / "findings.json").read_text())["findings"]
    assert (
        row["arm"] == "ppo-ptx"
        and row["seeds"] == 2
        and row["low"] < row["difference"] < row["high"]
    )
    page = (study / "reports" / "index.html").read_text()
    assert "ptx lowers the loss on plain text" in page and page.count("<svg") == 8

    client = client_of(project.root)
    experiment = client.get_experiment_by_name("rlhf-tiny")
    assert experiment is not None
    runs_of = client.search_runs([experiment.experiment_id], "tags.`rlhf.stage` LIKE 'arm-%'")
    ended = {(run.info.run_name, run.info.status) for run in runs_of}
    assert {("arm-ppo-max", "FINISHED"), ("arm-ppo-ptx", "FINISHED")} <= ended

    assert "Running stage" not in project.run(*COMMAND)
