"""`rlhf chat` on a pseudo-terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from rlhf.workspace import Workspace
from tests.waiting import SECONDS

RUN = [sys.executable, "-c", "from rlhf.commands.cli import main; main()"]
ENVIRONMENT = os.environ | {
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    "TERM": "dumb",
    "OMP_NUM_THREADS": "1",
}


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, arguments: list[str]) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*RUN, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        os.close(slave)
        self.seen = ""

    def until(self, text: str, count: int = 1) -> None:
        """Read until a text has been shown so many times."""
        deadline = time.monotonic() + SECONDS
        while self.seen.count(text) < count:
            left = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([self.master], [], [], left)
            assert ready, f"no {text!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            except OSError:
                # the other end was closed
                assert self.seen.count(text) >= count, self.seen

    def type(self, line: str) -> None:
        os.write(self.master, line.encode() + b"\n")

    def interrupt(self) -> int:
        """Press Ctrl-C while it waits for a line; gives the exit code.

        Python heeds a signal that comes just before it reads only once the read has ended: an empty
        line sees to that.
        """
        self.process.send_signal(signal.SIGINT)
        # it may have ended already
        with suppress(OSError):
            self.type("")
        return self.process.wait(SECONDS)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def terminal(trained: Workspace) -> Iterator[Terminal]:
    options = ["chat", "policy", "--max-new-tokens", "6", "--score"]
    session = Terminal(["-C", str(trained.root), *options])
    yield session
    session.close()


def test_a_dialogue_on_a_terminal_and_its_interruption(terminal: Terminal) -> None:
    terminal.until("> ")
    terminal.type("/help")
    terminal.until("/reset begins anew", count=2)
    terminal.type("Hello")
    terminal.until("gold ")
    terminal.type("egg " * 100)
    terminal.until("error: the message takes")
    terminal.type("/reset")
    terminal.until("(forgotten)")
    terminal.type("Hello")
    terminal.until("gold ", count=2)
    scores = [line for line in terminal.seen.splitlines() if "gold " in line]
    assert scores[0] == scores[1]
    terminal.until("> ", count=6)
    assert terminal.interrupt() == 130
