import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

WATCHED = (
    "import sys, time, psutil\n"
    "from tasks.guard import end_with\n"
    "{before}"
    "end_with(psutil.Process(int(sys.argv[1])), insist=0.5)\n"
    "print('ready', flush=True)\n"
    "time.sleep(600)\n"
)


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is nobody's parent, as DVC is when it runs a stage through a shell."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def watched(owner: subprocess.Popen[bytes], before: str = "") -> subprocess.Popen[str]:
    script = WATCHED.format(before=before)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(owner.pid)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_a_process_ends_with_one_that_is_not_its_parent(owner: subprocess.Popen[bytes]) -> None:
    process = watched(owner)
    assert process.poll() is None
    owner.kill()  # and nobody asks for its exit code
    assert process.wait(30) == -signal.SIGTERM


def test_one_that_does_not_heed_is_killed(owner: subprocess.Popen[bytes]) -> None:
    process = watched(owner, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n")
    owner.kill()
    owner.wait()
    assert process.wait(30) == -signal.SIGKILL


@pytest.mark.usefixtures("without_nohup")
def test_a_hangup_is_taken_for_sigterm_once_and_its_work_is_left_in_peace(
    owner: subprocess.Popen[bytes],
) -> None:
    caught = "import signal; signal.signal(signal.SIGTERM, lambda *_: print('told', flush=True))\n"
    process = watched(owner, f"{caught}from tasks.guard import heed_hangup; heed_hangup()\n")
    process.send_signal(signal.SIGHUP)
    assert process.stdout is not None
    assert process.stdout.readline() == "told\n"
    process.send_signal(signal.SIGHUP)
    owner.kill()  # its terminal was closed too
    assert process.wait(30) == -signal.SIGKILL
    assert process.stdout.read() == ""


def test_a_hangup_that_is_ignored_stays_so(owner: subprocess.Popen[bytes]) -> None:
    nohup = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = watched(owner, f"{nohup}from tasks.guard import heed_hangup; heed_hangup()\n")
    process.send_signal(signal.SIGHUP)
    owner.kill()
    assert process.wait(30) == -signal.SIGTERM
