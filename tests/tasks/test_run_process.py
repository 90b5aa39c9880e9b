import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.process import run_process

PYTHON = sys.executable
# a child that starts a grandchild in a session of its own, as torchrun does, says both ids and waits
FAMILY = (
    "import os, subprocess, sys, time\n"
    "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)\n"
    "print(os.getpid(), child.pid, flush=True)\n"
    "time.sleep(60)\n"
)


def gone(pid: int, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_every_line_is_handed_on_in_order_and_kept_in_the_log(tmp_path: Path) -> None:
    said: list[str] = []
    script = "import sys; print('one'); print('two', file=sys.stderr); print('a\\rb'); print('æ'); sys.stdout.write('end')"
    code, last = run_process(
        [PYTHON, "-u", "-c", script], log=tmp_path / "logs" / "x.log", say=said.append
    )
    assert code == 0
    assert said == last == ["one", "two", "a", "b", "æ", "end"]
    assert (tmp_path / "logs" / "x.log").read_text(encoding="utf-8").splitlines() == said


def test_long_output_does_not_block(tmp_path: Path) -> None:
    count = 0

    def say(_line: str) -> None:
        nonlocal count
        count += 1

    script = "for i in range(50000): print('x' * 100)"
    code, last = run_process([PYTHON, "-c", script], log=tmp_path / "x.log", say=say)
    assert (code, count, len(last)) == (0, 50000, 20)


def test_exit_codes_and_signals_come_back(tmp_path: Path) -> None:
    exits = [PYTHON, "-c", "raise SystemExit(7)"]
    dies = [PYTHON, "-c", "import os; os.kill(os.getpid(), 9)"]
    assert run_process(exits, log=tmp_path / "x.log", say=print)[0] == 7
    assert run_process(dies, log=tmp_path / "x.log", say=print)[0] == -signal.SIGKILL


def test_a_grandchild_that_keeps_the_pipe_open_does_not_keep_the_stage(tmp_path: Path) -> None:
    script = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']).pid)"
    said: list[str] = []
    began = time.monotonic()
    code, _ = run_process([PYTHON, "-c", script], log=tmp_path / "x.log", say=said.append)
    assert code == 0
    assert time.monotonic() - began < 50
    assert gone(int(said[0]))


def test_an_exception_ends_child_and_grandchild(tmp_path: Path) -> None:
    found: list[int] = []

    def say(line: str) -> None:
        found.extend(int(word) for word in line.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_process([PYTHON, "-c", FAMILY], log=tmp_path / "x.log", say=say, grace=5)
    assert len(found) == 2
    assert all(gone(pid) for pid in found)


def test_a_child_that_ignores_requests_is_killed(tmp_path: Path) -> None:
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN); signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True); time.sleep(60)\n"
    )
    found: list[int] = []

    def say(line: str) -> None:
        found.append(int(line))
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        run_process([PYTHON, "-c", script], log=tmp_path / "x.log", say=say, grace=0.5)
    assert gone(found[0])


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
def test_a_child_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "from pathlib import Path; import sys; from tasks.process import run_process\n"
        f"run_process([sys.executable, '-c', {FAMILY!r}], log=Path({str(tmp_path / 'x.log')!r}),"
        " say=lambda line: print(line, flush=True))\n"
    )
    parent = subprocess.Popen([PYTHON, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child, grandchild = (int(word) for word in parent.stdout.readline().split())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert gone(child)
    psutil.Process(
        grandchild
    ).kill()  # the kernel's signal reaches the child alone; torchrun passes it on
