"""`dvc repro`, one at a time in a workspace: the second run waits for the first instead of failing on DVC's locks.

DVC waits for its repository lock when asked to, but it drops that lock while a stage runs, and then refuses a second
`dvc repro` because the running stage's outputs are busy. So runs started here queue on a lock of their own, and a
`dvc repro` by hand that holds a stage is waited for.
"""

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from rlhf.common.errors import RlhfError
from rlhf.common.files import write_text
from rlhf.settings import load_settings
from rlhf.settings.edit import edited
from rlhf.settings.read import settings_text
from rlhf.workspace import Workspace
from tasks.errors import BusyError
from tasks.execution import is_dvc
from tasks.guard import heed_hangup
from tasks.process import run_process

_BUSY = "is busy, it is being blocked by"  # what DVC says of a stage that another process runs
_RWLOCK_READS = 10
_POLL_SECONDS = 2.0
_GRACE_SECONDS = 90.0  # a stage asks its own worker three times before it gives up

Say = Callable[[str], None]


class ReproFailed(RlhfError):
    """`dvc repro` ended with a code other than 0."""


def repro(
    root: Path,
    targets: Sequence[str],
    overrides: Mapping[str, Any],
    say: Say,
    *,
    wait: bool = True,
    force: bool = False,
    prepare: Callable[[], object] = lambda: None,
) -> None:
    """Bring `targets` (all stages if empty) up to date; `overrides` (dotted key -> value) are written to params.yaml.

    What else is to be written before DVC reads it, `prepare` writes, once no other run works on this workspace.
    Without `wait` a workspace that is in use raises BusyError; a stage that fails raises ReproFailed.
    """
    with _only_run(root, say, wait):
        _wait_for_others(root, say, wait)
        prepare()
        if overrides:
            override(Workspace(root).params, overrides)
        command = [
            sys.executable,
            "-m",
            "dvc",
            "--wait-for-lock",
            "repro",
            *(["--force"] if force else []),
            *targets,
        ]
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        }
        while True:
            code, last_lines = run_process(
                command,
                log=root / "logs" / "repro.log",
                say=say,
                environment=environment,
                directory=root,
                grace=_GRACE_SECONDS,
            )
            if code == 0:
                return
            if not any(_BUSY in line for line in last_lines):
                raise ReproFailed(f"dvc repro ended with exit code {code}")
            _tell(say, wait, "another DVC command holds this workspace")
            time.sleep(_POLL_SECONDS)
            _wait_for_others(root, say, wait)


def override(path: Path, values: Mapping[str, Any]) -> None:
    """Set dotted keys in a settings file; raises SettingsError before anything is written."""
    write_text(path, edited(settings_text(path), values, str(path)))


@contextmanager
def _only_run(root: Path, say: Say, wait: bool) -> Iterator[None]:
    path = root / ".dvc" / "tmp" / "rlhf-repro.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            _tell(say, wait, f"another run holds this workspace (process {stream.read().strip()})")
            fcntl.flock(stream, fcntl.LOCK_EX)
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def _wait_for_others(root: Path, say: Say, wait: bool) -> None:
    """Wait until no other DVC process runs a stage here."""
    told = False
    while busy := _writers(root / ".dvc" / "tmp" / "rwlock"):
        if not told:
            _tell(say, wait, f"another DVC command holds this workspace ({busy[0]})")
            told = True
        time.sleep(_POLL_SECONDS)


def _writers(rwlock: Path) -> list[str]:
    """List the living processes that DVC's own lock file says are writing outputs."""
    for _ in range(_RWLOCK_READS):
        try:
            writers = json.loads(rwlock.read_text(encoding="utf-8")).get("write", {}).values()
            break
        except FileNotFoundError:
            return []
        except json.JSONDecodeError:  # DVC rewrites the file in place: for a moment it is empty
            time.sleep(0.1)
    else:
        return []
    return [
        f"process {writer['pid']}: {writer['cmd']}"
        for writer in writers
        if _runs_dvc(int(writer["pid"]))
    ]


def _runs_dvc(pid: int) -> bool:
    """Whether the process lives and is DVC: after a crash another one may have its id."""
    try:
        return is_dvc(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return False


def _tell(say: Say, wait: bool, problem: str) -> None:
    if not wait:
        raise BusyError(problem)
    say(f"{problem}; waiting for it to end")


def main() -> None:
    """`python -m tasks.repro [TARGET ...]`: what `make repro` runs."""
    workspace = Workspace()
    with _told():
        load_settings(
            workspace.params
        )  # or DVC would tell of missing keys only, and set outputs aside first
    targets = sys.argv[1:]
    run(targets)
    if not targets:  # with them the report may be an earlier one
        print(f"the report: {workspace.report}; the figures: rlhf show")


def run(targets: Sequence[str]) -> None:
    """Bring targets of the present directory up to date, and exit with 1, 130 or 143 where that cannot be done."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(143)
    )  # so that DVC and its stage are ended in order
    heed_hangup()
    with _told():
        repro(Path(), targets, {}, lambda line: print(line, flush=True))


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except RlhfError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
