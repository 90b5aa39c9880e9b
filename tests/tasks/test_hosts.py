"""Hosts that begin together and end together; what runs on them is a stand-in for torchrun.

Two "hosts" are two shells of this machine, each in a session and with an environment of its own, as ssh
gives them. tests/rlhf/engine/test_several_hosts.py trains for real, and in two network namespaces.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from rlhf.common.yaml import parse_yaml, write_yaml
from rlhf.settings import Settings, preset_text, settings_from
from rlhf.stages import STAGES
from tasks.hosts import host_orders
from tasks.process import run_process
from tasks.worker import worker_command, worker_environment
from tests.host_launcher import write_launcher
from tests.source_tree import ROOT
from tests.waiting import wait_until_gone

# the command as a flow starts it, but what runs on each host is a program of the test's; its
# argument is the host's number
PROGRAM = """
import sys
from dataclasses import replace
from tasks import hosts

real, stand_ins, token = hosts.host_orders, {stand_ins!r}, {token!r}

def orders(*arguments):
    return [
        replace(
            order,
            command=[sys.executable, "-uc", stand_ins[order.host]],
            token=token if order.host == "two" and token else order.token,
        )
        for order in real(*arguments)
    ]

hosts.host_orders = orders
sys.argv = ["hosts", "sft"]
sys.exit(hosts.main())
"""
# a process with one in a session of its own, which it ends as torchrun does; says the ids of both and waits
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
print("ids", os.getpid(), child.pid, flush=True)
try:
    time.sleep(3600)
finally:
    child.kill()
"""
# waits for the other's word, says the same of the rank as tasks.torchrun, and ends
FAILS = """
import sys, time
from pathlib import Path
from tasks.host_messages import tell
while not Path("logs/go").exists():
    time.sleep(0.05)
Path("logs/sft/two.rank-1.log").write_text("rank 1 said this last\\n")
tell(failed={{"rank": 1, "code": {code}}})
sys.exit(1)
"""


def settings_of(tmp_path: Path, **hosts: object) -> Settings:
    content = parse_yaml(preset_text("tiny"), "tiny")
    content["engine"] |= {"kind": "deepspeed", "processes": 2}
    content["ppo"] |= {"mini_batch": 8, "rollouts": 8, "micro_batch": 2}
    content["hosts"] = {
        "slots": {"one": 1, "two": 1},
        "launcher": f"{write_launcher(tmp_path)} {{host}}",
        **hosts,
    }
    (tmp_path / "params.yaml").write_text(write_yaml(content), encoding="utf-8")
    return settings_from(content)


def program(tmp_path: Path, stand_ins: Mapping[str, str], token: str = "") -> list[str]:
    """The command of two hosts on which these programs run, with a workspace to run it in."""
    settings_of(tmp_path)
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(stand_ins=stand_ins, token=token), encoding="utf-8")
    return [sys.executable, str(path)]


def run(
    tmp_path: Path, command: list[str], on_line: object = print, grace: float = 30
) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    log = tmp_path / "logs" / "sft.log"
    code, _ = run_process(
        command,
        log_file=log,
        on_line=on_line,  # type: ignore[arg-type]
        directory=tmp_path,
        environment=environment,
        grace=grace,
    )
    return code, log.read_text(encoding="utf-8")


def ids_in(line: str) -> list[int]:
    return [int(word) for word in line.partition("ids ")[2].split()]


# -- what is ordered -------------------------------------------------------------------------------


def test_training_stages_alone_run_on_the_hosts(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    launched = {stage for stage in STAGES if "tasks.hosts" in worker_command(stage, settings)}
    assert launched == {"sft", "reward", "dpo", "process", "ppo", "gold"}
    assert worker_command("sft", settings) == [sys.executable, "-m", "tasks.hosts", "sft"]


def test_what_a_machine_wants_each_host_finds_itself(tmp_path: Path) -> None:
    """The one that orders may be without a GPU, or have other cores."""
    environment = worker_environment("sft", settings_of(tmp_path), {})
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert not {"DS_ACCELERATOR", "GLIBC_TUNABLES", "OMP_NUM_THREADS"} & environment.keys()


def test_each_host_is_given_its_share_of_torchrun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("REWARD_KEY", "of a reward service")
    hosts = settings_of(tmp_path, slots={"one": 1, "two": 1}).hosts
    assert hosts is not None
    first, second = host_orders("sft", hosts, {"gpu1": 2, "gpu2": 6}, Path("logs/token"))
    shared = ["-m", "tasks.torchrun", "--nnodes", "2", "--node-rank"]
    meeting = ["--master-addr", "gpu1", "--master-port", "29500", "--nproc-per-node"]
    worker = ["-m", "rlhf.commands.worker", "sft"]
    assert first.command == [sys.executable, *shared, "0", *meeting, "2", *worker]
    assert second.command == [sys.executable, *shared, "1", *meeting, "6", *worker]
    assert "MLFLOW_TRACKING_PASSWORD" not in second.environment
    assert second.environment["REWARD_KEY"] == "of a reward service"
    assert [str(second.log_of(rank)) for rank in (5, None)] == [
        "logs/sft/gpu2.rank-5.log",
        "logs/sft/gpu2.log",
    ]


# -- together --------------------------------------------------------------------------------------


def test_all_that_they_say_is_passed_on_and_kept_by_host(tmp_path: Path) -> None:
    says = (
        "import os; print('hello', os.environ['RLHF_RANK_LOG'], 'RLHF_PROCESS_MARK' in os.environ)"
    )
    code, output = run(tmp_path, program(tmp_path, {"one": says, "two": says}))
    assert code == 0, output
    lines = ["hello logs/sft/one.rank-{rank}.log True", "hello logs/sft/two.rank-{rank}.log True"]
    assert sorted(output.splitlines()) == sorted([lines[0], f"[two] {lines[1]}"])
    logs = tmp_path / "logs" / "sft"
    assert (logs / "one.rank-0.log").read_text() == lines[0] + "\n"
    assert (logs / "two.log").read_text() == lines[1] + "\n"
    # that all see one workspace was looked at by it
    assert not list((tmp_path / "logs").glob(".hosts-*"))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (-9, "was killed by signal 9, perhaps for want of memory"),
        (1, "failed (exit code 1)"),
    ],
)
def test_when_one_fails_the_others_are_ended_and_it_is_named(
    tmp_path: Path, code: int, told: str
) -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.extend(ids_in(line))
        if pids:
            (tmp_path / "logs" / "go").touch()

    stand_ins = {"one": FAMILY, "two": FAILS.format(code=code)}
    end, output = run(tmp_path, program(tmp_path, stand_ins), on_line)
    assert end == 1
    expected = [
        f"error: host two: rank 1 {told}; its log is logs/sft/two.rank-1.log",
        "rank 1 said this last",
    ]
    assert output.splitlines()[-2:] == expected
    assert len(pids) == 2
    wait_until_gone(*pids)


def test_a_host_that_is_lost_ends_the_others(tmp_path: Path) -> None:
    """Its launcher ends without a word from it."""
    pids: list[int] = []
    killed: list[int] = []
    lost = "import os; print('parent', os.getppid(), flush=True); import time; time.sleep(3600)"

    def on_line(line: str) -> None:
        pids.extend(ids_in(line))
        if line.startswith("[two] parent"):
            killed.append(int(line.split()[-1]))
        if pids and killed:
            os.kill(killed.pop(), signal.SIGKILL)

    code, output = run(tmp_path, program(tmp_path, {"one": FAMILY, "two": lost}), on_line)
    assert code == 1
    told = (
        r"error: host two was lost \(exit code \d+ of its launcher\); its log is logs/sft/two.log"
    )
    assert re.search(told, output)
    wait_until_gone(*pids)


@pytest.mark.parametrize("fault", [KeyboardInterrupt, RuntimeError])
def test_a_cancelled_stage_ends_all_hosts(tmp_path: Path, fault: type[BaseException]) -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.extend(ids_in(line))
        if len(pids) == 4:
            raise fault

    with pytest.raises(fault):
        run(tmp_path, program(tmp_path, {"one": FAMILY, "two": FAMILY}), on_line)
    wait_until_gone(*pids)


def test_hosts_end_with_a_main_one_that_is_killed(tmp_path: Path) -> None:
    main = subprocess.Popen(
        program(tmp_path, {"one": FAMILY, "two": FAMILY}),
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert main.stdout is not None
    pids = [*ids_in(main.stdout.readline()), *ids_in(main.stdout.readline())]
    assert len(pids) == 4
    main.kill()
    main.wait()
    wait_until_gone(*pids)


# -- refused before anything starts ----------------------------------------------------------------

NEVER = "print('this never runs')"


def test_a_workspace_that_is_not_shared_is_refused(tmp_path: Path) -> None:
    command = program(tmp_path, {"one": NEVER, "two": NEVER}, token="logs/.hosts-of-another-disk")
    code, output = run(tmp_path, command)
    assert code == 1
    assert output.startswith(f"error: host two: {tmp_path} is another directory than on the main")
    assert "this never runs" not in output


def test_a_launcher_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    settings_of(tmp_path, launcher="sh -c 'echo {host}: no route to it; exit 255'")
    code, output = run(tmp_path, [sys.executable, "-m", "tasks.hosts", "sft"])
    assert code == 1
    for host in ("one", "two"):
        problem = f"host {host}: could not be started (exit code 255 of its launcher)"
        assert f"{problem}\n  {host}: no route to it" in output


def test_the_check_starts_nothing_and_names_the_hosts(tmp_path: Path) -> None:
    settings_of(tmp_path)
    command = [sys.executable, "-m", "tasks.hosts", "--check"]
    assert run(tmp_path, command) == (0, "one x 1, two x 1\n")


# -- the other end ---------------------------------------------------------------------------------


def test_a_host_that_hears_nothing_more_ends_its_processes(tmp_path: Path) -> None:
    """The pipe is open: the network is gone, or the main host stands still."""
    hosts = settings_of(tmp_path).hosts
    assert hosts is not None
    (tmp_path / "token").touch()
    source = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from rlhf.settings import load_settings; from tasks.hosts import host_orders\n"
        "(order, _) = host_orders('sft', load_settings(Path('params.yaml')).hosts,"
        " {'one': 1, 'two': 1}, Path('token'))\n"
        f"print(replace(order, command=[sys.executable, '-c', {FAMILY!r}]).text())\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    order = subprocess.run(
        [sys.executable, "-c", source],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    node = subprocess.Popen(
        [sys.executable, "-c", "from tasks import node; node.SILENCE_SECONDS = 3.0; node.main()"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert node.stdin is not None and node.stdout is not None
    node.stdin.write(order + "start\n")
    node.stdin.flush()
    assert "ready" in node.stdout.readline()
    pids = ids_in(node.stdout.readline())
    assert len(pids) == 2
    wait_until_gone(*pids)
    node.wait()
