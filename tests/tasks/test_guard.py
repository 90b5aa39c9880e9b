import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tasks.guard import guarded_command
from tests.waiting import SECONDS

WATCHED = (
    "import os, signal, sys, time, psutil\n"
    "from tasks.guard import hangup_as_sigterm, terminate_with\n"
    "{before}"
    "terminate_with(psutil.Process(int(sys.argv[1])), grace=0.5)\n"
    "os.write(1, b'ready\\n')\n"
    "time.sleep(3600)\n"
)


@pytest.fixture
def owner() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is nobody's parent, as DVC is when it runs a stage through a shell."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()


def watched(owner: subprocess.Popen[bytes], before: str = "") -> subprocess.Popen[str]:
    """A process that ends with `owner`; `before` is code that it runs first."""
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
    # and nobody asks for its exit code
    owner.kill()
    assert process.wait(SECONDS) == -signal.SIGTERM


def test_one_that_ignores_the_request_is_killed(owner: subprocess.Popen[bytes]) -> None:
    process = watched(owner, "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n")
    owner.kill()
    owner.wait()
    assert process.wait(SECONDS) == -signal.SIGKILL


@pytest.mark.usefixtures("without_nohup")
def test_a_hangup_is_taken_for_sigterm_once_and_its_work_is_left_in_peace(
    owner: subprocess.Popen[bytes],
) -> None:
    # os.write: print would fail where the handler interrupts a print
    caught = "signal.signal(signal.SIGTERM, lambda *_: os.write(1, b'terminated\\n'))\n"
    process = watched(owner, f"{caught}hangup_as_sigterm()\n")
    process.send_signal(signal.SIGHUP)
    assert process.stdout is not None
    assert process.stdout.readline() == "terminated\n"
    process.send_signal(signal.SIGHUP)
    # its terminal was closed too
    owner.kill()
    assert process.wait(SECONDS) == -signal.SIGKILL
    assert process.stdout.read() == ""


def test_a_hangup_that_is_ignored_stays_ignored(owner: subprocess.Popen[bytes]) -> None:
    nohup = "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = watched(owner, f"{nohup}hangup_as_sigterm()\n")
    process.send_signal(signal.SIGHUP)
    owner.kill()
    assert process.wait(SECONDS) == -signal.SIGTERM


def test_a_request_to_end_is_heard_below_a_script_that_starts_it_with_an_ampersand() -> None:
    heard = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    guarded = guarded_command(sys.executable, "-c", heard)
    # as a shell has it for a background job of a script
    shell = ["bash", "-c", "trap '' INT; exec \"$@\"", "bash"]
    directly = subprocess.run([*shell, sys.executable, "-c", heard], capture_output=True, text=True)
    below = subprocess.run([*shell, *guarded], capture_output=True, text=True)
    assert (directly.stdout, below.stdout) == ("False\n", "True\n")
