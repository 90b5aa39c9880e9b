"""DVC's lock files after a kill: what nobody alive holds is put aside, or DVC would fail on it for ever.

DVC notes in `.dvc/tmp/rwlock` which process reads and writes what, and rewrites that file in place. A
`kill -9` leaves entries of a process that is gone, whose id another one may have by now, or half a
file. DVC's own record, `dvc.lock`, may be torn in the same way.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from dvc.lock import Lock, LockError
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, SCHEMA
from dvc.schema import COMPILED_LOCKFILE_SCHEMA
from voluptuous import Invalid

from rlhf.common.errors import SettingsError
from rlhf.common.files import write_text
from rlhf.common.yaml import parse_yaml
from tasks.execution import is_dvc

# psutil knows when a process began to a second
_CLOCK_SECONDS = 2.0
_CONFLICT = b"<<<<<<<"

OnLine = Callable[[str], None]


def holders(root: Path, on_line: OnLine) -> list[str]:
    """The living DVC commands that hold a part of the workspace.

    What dead ones left behind is put aside, with a line for each.
    """
    temporary = root / ".dvc" / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    guard = temporary / RWLOCK_LOCK
    try:
        # DVC holds it while it rewrites the file: what cannot be read now stays like that
        with Lock(str(guard)):
            living = _living(temporary / RWLOCK_FILE, on_line)
    except LockError:
        return [f"one that holds {guard}"]
    if not living:
        _put_torn_record_aside(root, on_line)
    return living


# -- .dvc/tmp/rwlock ------------------------------------------------------------------------------


def _living(rwlock: Path, on_line: OnLine) -> list[str]:
    if not rwlock.exists():
        return []
    try:
        content = SCHEMA(json.loads(rwlock.read_text(encoding="utf-8")))
    # those of json and of an encoding are ValueErrors; brackets without end go too deep
    except (ValueError, RecursionError, Invalid):
        aside = rwlock.with_name("rwlock.torn")
        rwlock.replace(aside)
        on_line(
            f"warning: {rwlock} cannot be read, as after a kill; it is put aside as {aside.name}"
        )
        return []

    entries = [
        *content["write"].values(),
        *(info for part in content["read"].values() for info in part),
    ]
    written = rwlock.stat().st_mtime
    processes = {_named(info): _holds(info, written) for info in entries}
    dead = [name for name, holds in processes.items() if not holds]
    if dead:
        _write_without(rwlock, content, dead)
        for name in dead:
            on_line(
                f"warning: {rwlock}: {name} has ended without taking its lock away; it is taken away"
            )
    return [name for name, holds in processes.items() if holds]


def _write_without(rwlock: Path, content: dict[str, Any], dead: list[str]) -> None:
    write = {path: info for path, info in content["write"].items() if _named(info) not in dead}
    read = {}
    for path, infos in content["read"].items():
        if kept := [info for info in infos if _named(info) not in dead]:
            read[path] = kept
    write_text(rwlock, json.dumps({"write": write, "read": read}))


def _named(info: dict[str, Any]) -> str:
    return f"process {info['pid']} ({info['cmd']})"


def _holds(info: dict[str, Any], written: float) -> bool:
    """Whether the process that made an entry lives: ids are used again, soon in a container.

    written: when the lock file was; a process that began later is another one
    """
    try:
        process = psutil.Process(info["pid"])
        if process.create_time() > written + _CLOCK_SECONDS:
            return False
        # DVC may also run inside a program that imports it; its arguments, or the program's own
        # name where it has none, are the last words
        last_words = info["cmd"].partition(" ")[2] or info["cmd"]
        command = " ".join(process.cmdline())
        return is_dvc(process) or (last_words != "" and command.endswith(last_words))
    # no process can have a negative id
    except (psutil.NoSuchProcess, ValueError):
        return False
    # another user's, of which nothing can be told
    except psutil.AccessDenied:
        return True


# -- dvc.lock -------------------------------------------------------------------------------------


def _put_torn_record_aside(root: Path, on_line: OnLine) -> None:
    """Set a `dvc.lock` aside of which a part is missing; DVC finds finished stages in its run cache."""
    record = root / "dvc.lock"
    # a DVC command that writes it holds the lock of the workspace
    with suppress(LockError), Lock(str(root / ".dvc" / "tmp" / "lock")):
        if record.exists() and _is_torn(record):
            aside = root / "logs" / "dvc.lock.torn"
            aside.parent.mkdir(exist_ok=True)
            record.replace(aside)
            on_line(
                f"warning: {record} cannot be read, as after a kill; it is put aside as {aside}. "
                "`git checkout dvc.lock` brings back the one that was committed"
            )


def _is_torn(record: Path) -> bool:
    """Whether DVC would refuse it. Half of it may still be YAML, or end within a character."""
    content = record.read_bytes()
    # half of a merge is for its author to end
    if _CONFLICT in content:
        return False
    try:
        parsed = parse_yaml(content.decode("utf-8"), str(record))
        COMPILED_LOCKFILE_SCHEMA(parsed)
    except Invalid:
        # whole, as another version of DVC writes it
        is_foreign = isinstance(parsed, dict) and parsed.get("schema") not in (None, "2.0")
        return not is_foreign
    except (SettingsError, UnicodeDecodeError, RecursionError):
        return True
    return False
