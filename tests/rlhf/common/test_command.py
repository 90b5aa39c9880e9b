import errno
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from rlhf.common.command import exit_on_fault, run_as_command
from rlhf.common.errors import RlhfError


class Stopped(BaseException):
    """What a framework raises on SIGTERM."""


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "models/sft")
NAMELESS = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
# as the requests library raises it: no number, and an address that may hold a password
NETWORK = ConnectionError("https://ann:s3cret@host/x does not answer")


@pytest.fixture(autouse=True)
def _own_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (RlhfError("data/in:3: no answer"), 1, "error: data/in:3: no answer\n"),
        (FULL, 1, "error: models/sft: No space left on device\n"),
        (NAMELESS, 1, "error: file system: No space left on device\n"),
        (NETWORK, 1, "error: ConnectionError: https://host/x does not answer\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (Stopped(), 143, "terminated\n"),
    ],
    ids=["fault", "disk", "disk without a name", "network", "Ctrl-C", "SIGTERM"],
)
def test_a_fault_is_one_message_and_an_exit_code(
    fault: BaseException, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end, exit_on_fault(terminated=(Stopped,)):
        raise fault
    assert end.value.code == code
    assert capsys.readouterr().err == message


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_fault():
        _ = 1 / 0


def test_an_interruption_that_was_reported_is_not_reported_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as end, exit_on_fault(interrupted=None):
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == ""


def test_a_worker_gives_its_exit_code_and_takes_sigterm_for_ctrl_c(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_as_command(lambda: None) == 0

    def refuse() -> None:
        raise RlhfError("no")

    assert run_as_command(refuse) == 1
    assert capsys.readouterr().err == "error: no\n"
    assert run_as_command(lambda: signal.raise_signal(signal.SIGTERM)) == 130
    assert "goes on from its last checkpoint" in capsys.readouterr().err


def test_an_exit_with_a_message_stays_one() -> None:
    def leave() -> None:
        sys.exit("no such stage")

    with pytest.raises(SystemExit, match="no such stage"):
        run_as_command(leave)
