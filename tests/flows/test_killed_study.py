"""A study of the paper's figures, run by its command in a clone: killed in the middle, gone on with, then run again."""

import json
import time
from contextlib import suppress
from pathlib import Path

import psutil

from tasks.tracking import client_of
from tests.project_copy import Project

SETTINGS = {"ppo.iterations": 8, "ppo.checkpoint_every": 2, "ppo.samples_every": 8}
COMMAND = (
    *(
        "python",
        "-m",
        "flows.study",
        "fig12",
        "--preset",
        "tiny",
        "--seeds",
        "2",
        "--first-seed",
        "5",
    ),
    *(word for key, value in SETTINGS.items() for word in ("--set", f"{key}={value}")),
)


def living(root: Path) -> list[psutil.Process]:
    """The processes that work at or below a directory."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if (
                Path(process.cwd()).is_relative_to(root)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def kill_once(project: Project, pattern: str) -> None:
    """Start the study and, when a path has come, kill all that works on it without warning, as a power cut would."""
    run = project.start(*COMMAND)
    end = time.monotonic() + 600
    while not list(project.root.glob(pattern)):
        assert run.poll() is None and time.monotonic() < end, f"no {pattern}"
        time.sleep(0.02)  # a few iterations later it would be finished
    while left := living(project.root):
        assert time.monotonic() < end, f"still there: {left}"
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.1)
    run.communicate()


def test_a_killed_study_goes_on_where_its_seeds_were_and_a_finished_one_runs_nothing(
    copied_chain: Project,
) -> None:
    project = copied_chain
    study = project.root / "studies" / "tiny"
    # a complete checkpoint: beside it lie `best` and the one in the making, from which nothing resumes
    kill_once(project, "studies/tiny/.arms/ppo-max-5/.checkpoints/ppo/*/step-*/")
    assert not (study / "runs" / "ppo-max.json").exists()

    assert not (
        study / "logs" / "gold.log"
    ).exists()  # the models of the finished chain were taken over
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
    assert "ptx lowers the loss on plain text" in page and page.count("<svg") == 6

    client = client_of(project.root)
    experiment = client.get_experiment_by_name("rlhf-tiny")
    assert experiment is not None
    runs_of = client.search_runs(
        [experiment.experiment_id], "tags.`rlhf.training.run` LIKE 'arm-%'"
    )
    ended = {(run.info.run_name, run.info.status) for run in runs_of}
    assert {("arm-ppo-max", "FINISHED"), ("arm-ppo-ptx", "FINISHED")} <= ended

    assert "Running stage" not in project.run(*COMMAND)
