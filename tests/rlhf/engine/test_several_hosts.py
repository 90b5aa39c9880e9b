"""Training on two hosts: two addresses of this machine, and two network namespaces joined by a cable."""

import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
from tiny import copy_workspace, numbers, outcome, tiny_settings, write_settings

from rlhf.common.yaml import parse_yaml
from rlhf.settings import Settings, preset_text, settings_from
from rlhf.settings.hosts import Hosts
from rlhf.training import sft
from rlhf.workspace import Workspace
from tasks.process import run_process
from tasks.worker import worker_command, worker_environment
from tests.host_launcher import write_launcher
from tests.namespaces import ADDRESSES, INTERFACE, two_namespaces
from tests.source_tree import ROOT
from tests.waiting import processes_below, wait_until

PAGE = (ROOT / "rlhf" / "engine" / "several_hosts.md").read_text(encoding="utf-8")
# what torchrun gives each process: the tests may run under it
DISTRIBUTED = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"}
MANY = {"engine.kind": "deepspeed", "engine.processes": 2, "ppo.micro_batch": 2}
# several steps of several micro-batches
STEPS = {"sft.batch_tokens": 200, "sft.micro_batch_tokens": 60}
CHANGES = {**MANY, **STEPS, "sft.checkpoint_every": 1}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def run_sft(
    workspace: Workspace, settings: Settings, on_line: Callable[[str], None] = print, **more: str
) -> tuple[int, list[str]]:
    """Run the worker as its flow does; gives exit code and last lines."""
    write_settings(workspace, settings)
    inherited = {key: value for key, value in os.environ.items() if key not in DISTRIBUTED}
    return run_process(
        worker_command("sft", settings),
        log_file=workspace.logs / "sft.log",
        on_line=on_line,
        environment=worker_environment("sft", settings, {**inherited, **more}),
        directory=workspace.root,
    )


def on_hosts(launcher: Path, address: str, changes: Mapping[str, Any] = CHANGES) -> Settings:
    hosts = {
        "slots": {"one": 1, "two": 1},
        "launcher": f"{launcher} {{host}}",
        "address": address,
        "port": free_port(),
    }
    return tiny_settings({**changes, "hosts": hosts})


@pytest.mark.long
def test_two_hosts_give_the_numbers_of_one_process(workspace: Workspace, tmp_path: Path) -> None:
    alone = copy_workspace(workspace, tmp_path / "alone")
    sft.train(tiny_settings(STEPS), alone)

    settings = on_hosts(write_launcher(tmp_path), "127.0.0.1")
    code, last_lines = run_sft(workspace, settings)
    assert code == 0, "\n".join(last_lines)
    one, two = (numbers(place.steps("sft")) for place in (alone, workspace))
    assert [row["step"] for row in two] == [row["step"] for row in one]
    for expected, row in zip(one, two, strict=True):
        assert row == pytest.approx(expected, rel=1e-3, abs=2e-5), expected["step"]
    logs = {path.name for path in (workspace.logs / "sft").iterdir()}
    assert logs == {"one.rank-0.log", "two.log", "two.rank-1.log"}


# -- in network namespaces -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def namespaces() -> Iterator[Mapping[str, Sequence[str]]]:
    try:
        with two_namespaces() as entering:
            yield entering
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")


@pytest.fixture
def far(namespaces: Mapping[str, Sequence[str]], tmp_path: Path) -> Callable[..., Settings]:
    """Settings of two hosts that reach each other by the cable alone."""
    launcher = write_launcher(tmp_path, namespaces)
    return lambda changes=CHANGES: on_hosts(launcher, ADDRESSES[0], changes)


CABLE = {"GLOO_SOCKET_IFNAME": INTERFACE}
# more steps than any of these tests waits for
LONG = {**CHANGES, "sft.epochs": 2000.0, "sft.checkpoint_every": 5}


def rank_1(workspace: Workspace) -> psutil.Process:
    """The training process of the second host."""
    (found,) = [
        process
        for process in processes_below(workspace.root)
        if process.environ().get("RANK") == "1" and process.cmdline()[-1] == "sft"
    ]
    return found


@pytest.mark.long
def test_two_hosts_give_the_very_numbers_of_two_processes_of_one(
    workspace: Workspace, tmp_path: Path, far: Callable[..., Settings]
) -> None:
    here = copy_workspace(workspace, tmp_path / "here")
    assert run_sft(here, tiny_settings(CHANGES))[0] == 0
    code, last_lines = run_sft(workspace, far(), **CABLE)
    assert code == 0, "\n".join(last_lines)
    assert outcome(workspace, "sft", "sft") == outcome(here, "sft", "sft")


@pytest.mark.long
def test_a_killed_process_ends_the_other_host_and_is_named(
    workspace: Workspace, far: Callable[..., Settings]
) -> None:
    def on_line(line: str) -> None:
        # of the first steps
        if line.startswith("sft "):
            rank_1(workspace).kill()

    code, last_lines = run_sft(workspace, far(LONG), on_line, **CABLE)
    assert code == 1
    told = "error: host two: rank 1 was killed by signal 9, perhaps for want of memory"
    assert f"{told}; its log is logs/sft/two.rank-1.log" in last_lines
    wait_until(lambda: not processes_below(workspace.root), "some still train")


@pytest.mark.long
def test_a_cancelled_stage_ends_both_hosts_and_goes_on_from_its_checkpoint(
    workspace: Workspace, far: Callable[..., Settings]
) -> None:
    lines: list[str] = []

    def cancel(line: str) -> None:
        lines.append(line)
        # of the first steps
        if line.startswith("sft "):
            raise KeyboardInterrupt

    def none_trains() -> bool:
        return not processes_below(workspace.root)

    with pytest.raises(KeyboardInterrupt):
        run_sft(workspace, far(LONG), cancel, **CABLE)
    wait_until(none_trains, "some still train")
    (checkpoint,) = workspace.unfinished_checkpoints("sft")

    # other hosts would do, and here another port
    with pytest.raises(KeyboardInterrupt):
        run_sft(workspace, far(LONG), cancel, **CABLE)
    wait_until(none_trains, "some still train")
    assert f"resuming from {checkpoint.relative_to(workspace.root)}" in lines


# -- the page --------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", blocks("bash"))
def test_the_pages_scripts_are_scripts(block: str) -> None:
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.mark.parametrize("block", blocks("yaml"))
def test_the_pages_settings_are_settings_of_the_large_preset(block: str) -> None:
    changes = parse_yaml(block, "several_hosts.md")
    content = parse_yaml(preset_text("hh-7b"), "hh-7b")
    engine = {**content["engine"], **changes["engine"]}
    # as the page says
    content["ppo"]["micro_batch"] = 2
    settings = settings_from({**content, "engine": engine, "hosts": changes["hosts"]})
    assert settings.hosts is not None
    command = settings.hosts.launching("gpu1", "a command")
    assert command[-1] == "a command" and "{host}" not in " ".join(command)


def test_every_key_is_in_the_pages_table() -> None:
    for key in Hosts.model_fields:
        assert re.search(rf"^\| .*`{key}`", PAGE, re.MULTILINE), key
    assert f"| {Hosts.model_fields['port'].default} |" in PAGE
