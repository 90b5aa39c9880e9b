import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tasks.process import run_process
from tests.waiting import wait_until_gone

PYTHON = sys.executable
# longer than any test waits: what is gone before was ended
SLEEP = "import time; time.sleep(3600)"
# a child that starts a grandchild in a session of its own, as torchrun does, prints both ids, waits
FAMILY = (
    "import os, subprocess, sys, time\n"
    f"child = subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True)\n"
    "print(os.getpid(), child.pid, flush=True)\n"
    "time.sleep(3600)\n"
)


def test_every_line_is_handed_on_in_order_and_written_to_the_log(tmp_path: Path) -> None:
    lines: list[str] = []
    script = "import sys; print('one'); print('two', file=sys.stderr); print('a\\rb'); print('æ'); sys.stdout.write('end')"
    code, last = run_process(
        [PYTHON, "-u", "-c", script], log_file=tmp_path / "logs" / "x.log", on_line=lines.append
    )
    assert code == 0
    assert lines == last == ["one", "two", "a", "b", "æ", "end"]
    assert (tmp_path / "logs" / "x.log").read_text(encoding="utf-8").splitlines() == lines


def test_long_output_does_not_block(tmp_path: Path) -> None:
    count = 0

    def on_line(_line: str) -> None:
        nonlocal count
        count += 1

    script = "for i in range(50000): print('x' * 100)"
    code, last = run_process([PYTHON, "-c", script], log_file=tmp_path / "x.log", on_line=on_line)
    assert (code, count, len(last)) == (0, 50000, 20)


def test_exit_codes_and_signals_come_back(tmp_path: Path) -> None:
    exits = [PYTHON, "-c", "raise SystemExit(7)"]
    dies = [PYTHON, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert run_process(exits, log_file=tmp_path / "x.log", on_line=print)[0] == 7
    assert run_process(dies, log_file=tmp_path / "x.log", on_line=print)[0] == -signal.SIGKILL


def test_a_grandchild_that_keeps_the_pipe_open_does_not_keep_the_stage(tmp_path: Path) -> None:
    script = (
        f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid)"
    )
    lines: list[str] = []
    # waiting for the pipe to close would take the hour that the grandchild sleeps
    code, _ = run_process([PYTHON, "-c", script], log_file=tmp_path / "x.log", on_line=lines.append)
    assert code == 0
    wait_until_gone(int(lines[0]))


def test_an_exception_ends_child_and_grandchild(tmp_path: Path) -> None:
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.extend(int(word) for word in line.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_process([PYTHON, "-c", FAMILY], log_file=tmp_path / "x.log", on_line=on_line, grace=5)
    assert len(pids) == 2
    wait_until_gone(*pids)


def test_a_child_that_ignores_requests_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True); time.sleep(3600)\n"
    )
    pids: list[int] = []

    def on_line(line: str) -> None:
        pids.append(int(line))
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run_process([PYTHON, "-c", script], log_file=tmp_path / "x.log", on_line=on_line, grace=0.5)
    wait_until_gone(*pids)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import sys; from tasks.process import run_process\n"
        f"run_process([sys.executable, '-c', {FAMILY!r}], log_file=Path({str(tmp_path / 'x.log')!r}),"
        " on_line=lambda line: print(line, flush=True))\n"
    )
    parent = subprocess.Popen([PYTHON, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child, grandchild = (int(word) for word in parent.stdout.readline().split())
    try:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        wait_until_gone(child)
    finally:
        # the kernel's signal reaches the child alone; torchrun passes it on
        psutil.Process(grandchild).kill()
