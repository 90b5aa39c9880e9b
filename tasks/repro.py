"""`dvc repro`, one at a time in a workspace: the second run waits instead of failing on DVC's locks.

DVC waits for its repository lock when asked to, but it drops that lock while a stage runs, and then
refuses a second `dvc repro` because the running stage's outputs are busy. So runs started here queue
on a lock of their own, and a `dvc repro` by hand that holds a stage is waited for.
"""

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from rlhf.common.command import TERMINATED, exit_on_fault
from rlhf.common.errors import RlhfError
from rlhf.common.files import write_text
from rlhf.common.yaml import parse_yaml, read_yaml
from rlhf.settings import settings_from
from rlhf.settings.edit import edited
from rlhf.settings.read import settings_text
from rlhf.watched import refuse_unwatched_stages
from rlhf.workspace import Workspace
from tasks.dvc_locks import holders
from tasks.errors import BusyError
from tasks.guard import hangup_as_sigterm
from tasks.process import OnLine, run_process
from tasks.repository import refuse_unusable_repository

# DVC's message about a stage that another process runs
_BUSY = "is busy, it is being blocked by"
_POLL_SECONDS = 2.0
# a stage asks its own worker three times before it gives up
_GRACE_SECONDS = 90.0


class ReproFailed(RlhfError):
    """`dvc repro` ended with a code other than 0."""


def repro(
    root: Path,
    targets: Sequence[str],
    overrides: Mapping[str, Any],
    on_line: OnLine,
    *,
    wait: bool = True,
    prepare: Callable[[], object] | None = None,
) -> None:
    """Bring `targets` (all stages if empty) up to date; DVC's output goes to `on_line`.

    overrides: dotted key -> value, written to params.yaml first
    wait: for another run of this workspace; otherwise a workspace in use raises BusyError
    prepare: writes whatever else is to be written before DVC reads it, once no other run works here

    What a stage would refuse is refused before DVC sets outputs aside: settings, and code that
    dvc.yaml does not list. Raises SettingsError for these, ReproFailed where a stage fails.
    """
    with workspace_held(root, on_line, wait=wait):
        if prepare is not None:
            prepare()
        override(root, overrides)
        dvc_repro(root, targets, on_line, wait=wait)


def dvc_repro(root: Path, targets: Sequence[str], on_line: OnLine, *, wait: bool = True) -> None:
    """Run `dvc repro` with these arguments in a workspace that is held; raises ReproFailed."""
    while not _try_dvc_repro(root, targets, on_line):
        # one by hand began between the look and our own
        _report_busy(on_line, wait, "another DVC command holds this workspace")
        time.sleep(_POLL_SECONDS)
        wait_for_others(root, on_line, wait=wait)


def _try_dvc_repro(root: Path, targets: Sequence[str], on_line: OnLine) -> bool:
    """Run DVC; False where another DVC command holds a stage. Raises ReproFailed."""
    # the stages' `python` is the one that runs this
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    code, last_lines = run_process(
        [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", *targets],
        log_file=root / "logs" / "repro.log",
        on_line=on_line,
        environment=os.environ | {"PATH": path},
        directory=root,
        grace=_GRACE_SECONDS,
    )
    if code == 0:
        return True
    if any(_BUSY in line for line in last_lines):
        return False
    raise ReproFailed(f"dvc repro ended with exit code {code}")


def override(root: Path, values: Mapping[str, Any]) -> None:
    """Set dotted keys in params.yaml; raises SettingsError before anything is written."""
    path = Workspace(root).params
    text = settings_text(path)
    if values:
        text = edited(text, values, str(path))
    refuse_settings(root, text, str(path))
    if values:
        write_text(path, text)


def refuse_settings(root: Path, text: str, source: str) -> None:
    """Raise SettingsError for the text of a params.yaml that a stage would refuse."""
    refuse_unwatched_stages(root, settings_from(parse_yaml(text, source), source))


# -- settings of a run ----------------------------------------------------------------------------


@contextmanager
def settings_changed(root: Path, change: Callable[[], object], on_line: OnLine) -> Iterator[None]:
    """Change params.yaml for the block, and put it back where that ends before a stage has finished.

    change: writes the whole change or raises; the workspace is held

    A run that is refused, cancelled or fails at its first stage leaves no settings to the runs after
    it: tried again, it writes them again. Once dvc.lock names a stage that has finished with them they
    stay, and so does what somebody else has written meanwhile.
    """
    path = Workspace(root).params
    before, recorded = _text(path), _recorded_stages(root)
    change()
    written = _text(path)
    try:
        yield
    except BaseException:
        # or this fault would hide the one that ends the run
        try:
            if written != before and not _news(recorded, _recorded_stages(root)):
                _put_back(path, before, written, on_line)
        except (RlhfError, OSError) as fault:
            on_line(f"warning: {path} keeps the settings of this run: {fault}")
        raise
    if _text(path) != written:
        on_line(
            f"warning: {path} was changed while this run worked, by hand or by `dvc exp`; dvc.lock names "
            "the settings that its stages ran with"
        )


def _put_back(path: Path, before: str | None, written: str | None, on_line: OnLine) -> None:
    if _text(path) != written:
        on_line(f"{path} was changed while this run worked, and stays as it is")
        return
    if before is None:
        path.unlink()
    else:
        write_text(path, before)
    on_line(
        f"{path} is again as it was before this run, none of whose stages has finished; tried again, "
        "it writes its settings again and goes on from its checkpoints"
    )


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _recorded_stages(root: Path) -> Mapping[str, Any]:
    """The entries of dvc.lock, of which a stage writes its own when it has finished."""
    lock = root / "dvc.lock"
    content: Mapping[str, Any] = read_yaml(lock) if lock.is_file() else {}
    return content.get("stages") or {}


def _news(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    return any(before.get(stage) != entry for stage, entry in after.items())


# -- one run at a time ----------------------------------------------------------------------------


@contextmanager
def workspace_held(root: Path, on_line: OnLine, *, wait: bool = True) -> Iterator[None]:
    """Keep other runs out of the workspace in the block, once there is none.

    wait: for another run; otherwise a workspace in use raises BusyError
    """
    refuse_unusable_repository(root)
    with _only_run(root, on_line, wait):
        wait_for_others(root, on_line, wait=wait)
        yield


@contextmanager
def _only_run(root: Path, on_line: OnLine, wait: bool) -> Iterator[None]:
    """Hold this project's own lock of the workspace, with our process id in it."""
    path = root / ".dvc" / "tmp" / "rlhf-repro.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            stream.seek(0)
            holder = stream.read().strip()
            _report_busy(on_line, wait, f"another run holds this workspace (process {holder})")
            fcntl.flock(stream, fcntl.LOCK_EX)
        # for the message of the next one
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        yield


def wait_for_others(root: Path, on_line: OnLine, *, wait: bool = True) -> None:
    """Wait until no other DVC process runs a stage here; locks of dead ones are put aside."""
    reported = False
    while living := holders(root, on_line):
        if not reported:
            problem = f"another DVC command holds this workspace: {living[0]}"
            _report_busy(on_line, wait, problem)
            reported = True
        time.sleep(_POLL_SECONDS)


def _report_busy(on_line: OnLine, wait: bool, problem: str) -> None:
    if not wait:
        raise BusyError(problem)
    on_line(f"{problem}; waiting for it to end")


# -- the command ----------------------------------------------------------------------------------


def main() -> None:
    """`python -m tasks.repro [TARGET ...]`: what `make repro` runs."""
    targets = sys.argv[1:]
    run(targets)
    # with targets the report may be an earlier one
    if not targets:
        print(f"the report: {Workspace().report}; the figures: rlhf show")


def run(targets: Sequence[str]) -> None:
    """Bring targets of the present directory up to date; exits with 1, 130 or 143 where it fails."""
    # so that DVC and its stage are ended in order
    signal.signal(signal.SIGTERM, _terminate)
    hangup_as_sigterm()
    # DVC reports a Ctrl-C itself
    with exit_on_fault(interrupted=None):
        repro(Path(), targets, {}, _print_line)


def _print_line(line: str) -> None:
    print(line, flush=True)


def _terminate(_signal: int, _frame: object) -> NoReturn:
    sys.exit(TERMINATED)


if __name__ == "__main__":
    main()
