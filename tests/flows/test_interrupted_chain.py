"""What may go wrong while a stage runs: interruption, a killed worker, bad settings, no tracking server."""

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress

import psutil
import pytest

from rlhf.common.yaml import read_yaml, write_yaml
from tasks.tracking import client_of
from tests.flows.records import newest
from tests.project_copy import Project
from tests.waiting import SECONDS, processes_below, wait_until, wait_until_gone


def set_params(project: Project, change: Callable[[dict], None]) -> None:
    path = project.root / "params.yaml"
    content = read_yaml(path)
    change(content)
    path.write_text(write_yaml(content))


def forever(content: dict) -> None:
    content["sft"] |= {"epochs": 2000.0, "checkpoint_every": 5}


def training(project: Project, lines: int = 12) -> psutil.Process:
    """Wait until sft has written some steps, and give its worker."""
    steps = project.root / "metrics" / "sft.jsonl"

    def has_begun() -> bool:
        # DVC removes that of the finished chain first
        with suppress(FileNotFoundError):
            return steps.read_text().count("\n") >= lines
        return False

    wait_until(has_begun, "sft did not begin")
    (worker,) = of(project, "rlhf.commands.worker")
    return worker


def of(project: Project, word: str) -> list[psutil.Process]:
    """The living processes of a project whose command line has a word."""
    found = []
    for process in processes_below(project.root):
        with suppress(psutil.Error):
            if word in process.cmdline():
                found.append(process)
    return found


def last_runs(project: Project) -> dict[str, str]:
    """Status of the newest sft run and of its parent, and how many losses it holds."""
    client = client_of(project.root)
    run = newest(client, "sft")
    parent = client.get_run(run.data.tags["mlflow.parentRunId"])
    return {
        "status": run.info.status,
        "parent": parent.info.status,
        "message": run.data.tags.get("rlhf.message", ""),
        "losses": str(len(client.get_metric_history(run.info.run_id, "sft/train_loss"))),
    }


def nothing_half_written(project: Project) -> None:
    assert not (project.root / "models" / "sft").exists()
    assert not list(project.root.rglob(".*.partial-*"))


def the_log_is_set_aside(project: Project) -> None:
    assert not (project.root / "metrics" / "sft.jsonl").exists()
    assert (project.root / ".failures" / "sft" / "sft.jsonl").read_text().count("\n") >= 12


def test_ctrl_c_ends_everything_and_is_recorded(copied_chain: Project) -> None:
    # with a Prefect server of its own, as by hand
    project = Project(copied_chain.root)
    set_params(project, forever)
    run = project.start("dvc", "repro", "sft")
    worker = training(project)
    # what a terminal does
    os.killpg(run.pid, signal.SIGINT)
    output, _ = run.communicate(timeout=SECONDS)
    assert run.returncode != 0
    assert "Traceback" not in output
    # its server goes with it
    assert "View at" not in output
    assert (
        "is kept: with the settings, data, code and libraries that it was made from, `dvc repro` resumes it"
        in output
    )
    assert not worker.is_running()
    assert of(project, "rlhf.commands.worker") == of(project, "flows.sft") == []
    nothing_half_written(project)
    the_log_is_set_aside(project)
    found = last_runs(project)
    assert (found["status"], found["parent"]) == ("KILLED", "KILLED")
    # the steps until then are not lost
    assert int(found["losses"]) >= 10
    key = newest(client_of(project.root), "sft").data.tags["rlhf.execution"]
    with closing(sqlite3.connect(project.root / ".prefect" / "prefect.db")) as states:
        rows = states.execute(
            "SELECT state_type FROM flow_run WHERE name = ?", (f"sft-{key}",)
        ).fetchall()
    assert rows == [("CRASHED",)]


@pytest.mark.long
def test_a_killed_worker_fails_the_stage_with_one_message(copied_chain: Project) -> None:
    set_params(copied_chain, forever)
    run = copied_chain.start("dvc", "repro", "sft")
    training(copied_chain).kill()
    output, _ = run.communicate(timeout=SECONDS)
    assert run.returncode != 0
    assert output.count("killed by signal 9") == 1
    assert "Traceback" not in output
    nothing_half_written(copied_chain)
    the_log_is_set_aside(copied_chain)
    found = last_runs(copied_chain)
    assert found["status"] == "FAILED"
    assert "killed by signal 9" in found["message"]
    # the way back needs no training: the run cache has the earlier result
    copied_chain.run("git", "checkout", "--quiet", "params.yaml")
    assert copied_chain.ran(copied_chain.repro("sft")) == []


@pytest.mark.long
def test_settings_that_change_under_a_running_stage_are_refused(copied_chain: Project) -> None:
    """DVC hashes settings when a stage has ended: it would tie the model to settings that it was not trained with."""
    set_params(copied_chain, lambda content: content["sft"].update(epochs=30.0))
    run = copied_chain.start("dvc", "repro", "sft")
    worker = training(copied_chain)
    # or it might end before
    worker.suspend()
    set_params(copied_chain, lambda content: content["sft"].update(checkpoint_every=5))
    worker.resume()
    output, _ = run.communicate(timeout=SECONDS)
    assert run.returncode != 0
    assert output.count("sft.checkpoint_every: changed while sft ran") == 1
    assert "Traceback" not in output
    assert last_runs(copied_chain)["status"] == "FAILED"


@pytest.mark.usefixtures("without_nohup")
@pytest.mark.parametrize(
    ("send", "signum"),
    [
        (os.kill, signal.SIGKILL),
        pytest.param(os.killpg, signal.SIGHUP, marks=pytest.mark.long),
    ],
)
def test_a_dvc_that_is_killed_or_hung_up_takes_its_trainer_along(
    copied_chain: Project, send: Callable[[int, int], None], signum: int
) -> None:
    """A closed terminal reaches the stage as well, which records its end as after SIGTERM."""
    set_params(copied_chain, forever)
    run = copied_chain.start("dvc", "repro", "sft")
    worker = training(copied_chain)
    send(run.pid, signum)
    run.communicate(timeout=SECONDS)
    wait_until_gone(worker.pid)
    nothing_half_written(copied_chain)
    found = last_runs(copied_chain)
    assert (found["status"], found["parent"]) == ("KILLED", "KILLED")


def test_a_dvc_that_is_killed_before_its_stage_has_begun_leaves_none(copied_chain: Project) -> None:
    """What a stage imports takes seconds, in which nobody watches for the end of DVC."""
    set_params(copied_chain, forever)
    run = copied_chain.start("dvc", "repro", "sft")
    wait_until(lambda: bool(of(copied_chain, "flows.sft")), "the stage did not begin")
    (stage,) = of(copied_chain, "flows.sft")
    run.kill()
    output, _ = run.communicate(timeout=SECONDS)
    wait_until_gone(stage.pid)
    assert "sft: the dvc that started it is gone; nothing is run" in output
    assert of(copied_chain, "rlhf.commands.worker") == []


def test_refused_settings_are_told_once_and_nothing_runs(copied_chain: Project) -> None:
    set_params(copied_chain, lambda content: content["report"].update(colour="red"))
    output = copied_chain.repro(code=255)
    assert output.count("params.yaml: report.colour: unknown key") == 1
    assert "Traceback" not in output
    assert (
        not (copied_chain.root / "logs" / "report.log").exists()
        or "error" not in (copied_chain.root / "logs" / "report.log").read_text()
    )


def test_without_its_tracking_server_a_stage_does_not_begin(
    copied_chain: Project, unanswered: str
) -> None:
    address = f"http://{unanswered}"
    log = copied_chain.root / "logs" / "report.log"
    log.unlink()
    output = copied_chain.repro(
        "--force", "--single-item", "report", code=255, MLFLOW_TRACKING_URI=address
    )
    assert f"MLflow at {address} cannot be used" in output
    assert "Traceback" not in output
    assert not log.exists()
