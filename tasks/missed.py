"""What a run could not tell MLflow is kept, and told later: `python -m tasks.missed`.

    .pending/<when>-<run id>/record.json   the run, and a function of `tasks` with its arguments
    .pending/<when>-<run id>/workspace/    copies of the files that it reads; a later run writes its own

The next stage delivers it before it opens its run, `rlhf record` at any time. Every such function may
be called twice: what MLflow has already is not added again. Weights are not copied: DVC keeps them.
"""

import argparse
import pkgutil
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from rlhf.common.address import without_credentials
from rlhf.common.command import exit_on_fault
from rlhf.common.errors import RlhfError
from rlhf.common.files import read_json, staged_directory, write_json
from tasks.environment import records_root
from tasks.lineage import Lineage
from tasks.tracking import TrackedRun, client_of, first_line, global_address, tracking_uri

FOLDER = ".pending"
_LATER = "the next stage does it, or `rlhf record`"


@contextmanager
def kept(
    run: TrackedRun,
    what: str,
    warn: Callable[[str], None],
    log: Callable[..., object],
    files: Iterable[Path] = (),
    **arguments: Any,
) -> Iterator[None]:
    """Turn a failure to record into a warning, and keep `log(run, **arguments)` for later.

    Results are in the workspace and must not be lost over a record of them, whatever a store raises,
    an S3 client's own exceptions among them. `log` is a function of a module, `arguments` fit into
    JSON; `files` of the workspace are what it reads.
    """
    try:
        yield
    except Exception as error:
        problem = f"MLflow: {what} not recorded: {first_line(error)}"
        try:
            _keep(run, what, log, files, arguments)
            problem += f"; {_LATER}"
        except Exception as fault:
            problem += f"; it could not be kept for later either: {first_line(fault)}"
        warn(problem)


def attempt(
    run: TrackedRun,
    what: str,
    warn: Callable[[str], None],
    log: Callable[..., object],
    files: Iterable[Path] = (),
    **arguments: Any,
) -> None:
    """Call `log(run, **arguments)`; what fails is kept for later."""
    with kept(run, what, warn, log, files, **arguments):
        log(run, **arguments)


def _keep(
    run: TrackedRun,
    what: str,
    log: Callable[..., object],
    files: Iterable[Path],
    arguments: dict[str, Any],
) -> None:
    # a folder for each: another process may deliver and remove earlier ones meanwhile
    folder = records_root(run.root) / FOLDER / f"{time.time_ns()}-{run.run_id}"
    record = {
        "address": without_credentials(tracking_uri(run.root)),
        "run": asdict(run) | {"root": str(run.root.resolve())},
        "what": what,
        "log": f"{log.__module__}:{log.__name__}",
        "arguments": arguments,
    }
    with staged_directory(folder) as making:
        for file in files:
            if file.is_file():
                copy = making / "workspace" / file.relative_to(run.root)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, copy)
        write_json(making / "record.json", record)


# -- telling it -----------------------------------------------------------------------------------


def pending(root: Path) -> list[Path]:
    """The records that are to be delivered, oldest first."""
    return sorted((records_root(root) / FOLDER).glob("[!.]*/record.json"))


def deliver(root: Path, tell: Callable[[str], None]) -> list[str]:
    """Tell MLflow what runs of this workspace could not; gives what is still to be told, and why.

    What is kept for another server stays.
    """
    if not pending(root):
        return []
    address = without_credentials(tracking_uri(root))
    try:
        # asked once: each call to a server that is away takes seconds
        client_of(root).search_experiments(max_results=1)
    except Exception as error:
        return [f"MLflow at {address} does not answer: {first_line(error)}"]
    with (
        FileLock(records_root(root) / FOLDER / "lock"),
        global_address(tracking_uri(root)),
    ):
        # another process may have delivered meanwhile
        found = [_deliver(path, address, tell) for path in pending(root)]
    return [problem for problem in found if problem]


def _deliver(path: Path, address: str, tell: Callable[[str], None]) -> str:
    """Tell MLflow one thing and forget it; gives why it is still to be told, or ""."""
    # damaged, or of another release: no stage may fail over it
    try:
        record = read_json(path)
        name = f"{record['run']['stage']}, run {record['run']['run_id']}: {record['what']}"
        kept_for, arguments = record["address"], record["arguments"]
        run = _run_of(record, path.parent / "workspace")
        function = _function(record["log"])
    except (RlhfError, KeyError, TypeError, ValueError, OSError) as error:
        return f"{path}: not readable: {first_line(error)}"
    if kept_for != address:
        return f"{name}: kept for MLflow at {kept_for}"
    # whatever the store raises
    try:
        function(run, **arguments)
        shutil.rmtree(path.parent)
    except Exception as error:
        return f"{name}: {first_line(error)}"
    tell(f"MLflow: {name}: recorded now")
    return ""


def _function(name: str) -> Callable[..., object]:
    """A function by its name in a record, which may have been written by anybody."""
    if not name.startswith("tasks."):
        raise ValueError(f"{name}: not a function of tasks")
    function: Callable[..., object] = pkgutil.resolve_name(name)
    return function


def _run_of(record: dict[str, Any], workspace: Path) -> TrackedRun:
    """The run of a record; its root is where the copies of its files are."""
    values = record["run"]
    return TrackedRun(**values | {"root": workspace, "lineage": Lineage(**values["lineage"])})


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and deliver; fails where something is still to be told."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="rlhf record", description=__doc__.split(":", maxsplit=1)[0] + "."
    )
    parser.parse_args(arguments)
    root = Path()
    with exit_on_fault():
        if not pending(root):
            print("MLflow has all that the runs of this workspace told it")
        elif left := deliver(root, print):
            folder = records_root(root) / FOLDER
            raise RlhfError("\n".join([f"MLflow lacks what is kept in {folder}:", *left]))


if __name__ == "__main__":
    main()
