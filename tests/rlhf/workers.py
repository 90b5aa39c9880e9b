"""Stage workers in processes of their own, to be killed, interrupted or starved of disk.

They are forked from a server that has torch imported already, which saves each of them seconds.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from rlhf.commands.worker import main
from rlhf.common.metrics import Value
from rlhf.core.steps import StepLog

# a worker needs about one; a busy machine may take its time
SECONDS = 600
_server = get_context("forkserver")
_server.set_forkserver_preload(
    [
        "rlhf.training.sft",
        "rlhf.training.reward",
        "rlhf.training.dpo",
        "rlhf.training.process",
        "rlhf.training.loop",
        "workers",
    ]
)


@dataclass(frozen=True)
class Harm:
    """What happens to the worker: killed once it has logged `step`, or limited to small files."""

    step: int | None = None
    file_bytes: int | None = None


def _nothing() -> None:
    return None


class Worker:
    """`python -m rlhf.commands.worker STAGE` in the directory `root`.

    prepare: called there first; a function that can be pickled
    """

    def __init__(
        self,
        stage: str,
        root: Path,
        harm: Harm = Harm(),
        prepare: Callable[[], None] = _nothing,
    ) -> None:
        self.output = root / "worker.log"
        arguments = (stage, root, harm, self.output, prepare)
        # daemon: one that a failed test leaves behind ends with the tests
        self._process = _server.Process(target=_run, args=arguments, daemon=True)
        self._process.start()

    def interrupt_when(self, ready: Callable[[], bool], signum: int = signal.SIGINT) -> None:
        end = time.monotonic() + SECONDS
        while not ready():
            assert self._process.is_alive(), self.log()
            assert time.monotonic() < end
            time.sleep(0.01)
        assert self._process.pid is not None
        os.kill(self._process.pid, signum)

    def code(self) -> int:
        """Wait for the end; a negative code is a signal's number."""
        self._process.join(SECONDS)
        code = self._process.exitcode
        self._process.kill()
        assert code is not None, self.log()
        return code

    def log(self) -> str:
        return self.output.read_text()


def _run(stage: str, root: Path, harm: Harm, output: Path, prepare: Callable[[], None]) -> None:
    os.chdir(root)
    with output.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    sys.stdout = sys.stderr = os.fdopen(2, "w", closefd=False)
    if harm.step is not None:
        _die_after(f"{stage}.jsonl", harm.step)
    if harm.file_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (harm.file_bytes, harm.file_bytes))
    prepare()
    code = main([stage])
    sys.stderr.flush()
    os._exit(code)


def _die_after(name: str, last: int) -> None:
    write = StepLog.write

    def write_and_die(log: StepLog, step: int, values: Mapping[str, Value]) -> None:
        write(log, step, values)
        if log.path.name == name and step == last:
            os.kill(os.getpid(), signal.SIGKILL)

    StepLog.write = write_and_die  # type: ignore[method-assign]


def half_written(root: Path) -> list[str]:
    """Hidden left-overs anywhere a reader or DVC might look."""
    folders = [root / name for name in ("models", "metrics", "data")]
    return [str(path) for folder in folders for path in folder.rglob(".*")]
