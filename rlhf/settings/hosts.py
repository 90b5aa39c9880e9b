"""The settings of several hosts: which machines share the processes of a training stage."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import Field, model_validator

from rlhf.common.address import Address
from rlhf.common.errors import SettingsError
from rlhf.settings.section import Count, Section

# none begins with a dash, which a launcher would take for an option
_HOST = r"[A-Za-z0-9][\w.-]*"
_LINE = re.compile(rf"(?P<host>{_HOST})\s+slots=(?P<slots>[1-9][0-9]*)")

HostName = Annotated[str, Field(pattern=f"^{_HOST}$")]


class Hosts(Section):
    """The machines that share the `engine.processes`, and how a command is run there.

    It stands beside `engine`, not in it: where processes run changes no number, so that it makes no
    finished stage stale and no checkpoint useless. rlhf/engine/several_hosts.md is the guide.
    """

    # a file names what it changes: no number depends on them
    LATER: ClassVar = frozenset({"slots", "file", "launcher", "address", "port"})

    # how many processes on each; the first has the main process
    slots: Annotated[dict[HostName, Count], Field(min_length=1)] | None = None
    # or a file with a line `HOST slots=N` for each, as DeepSpeed and MPI have it
    file: Annotated[str, Field(min_length=1)] | None = None
    # these words, and behind them a command of the shell as one more, run that command on {host}
    launcher: str = (
        "ssh -o BatchMode=yes -o ConnectTimeout=15 "
        "-o ServerAliveInterval=15 -o ServerAliveCountMax=4 {host}"
    )
    # of the first host, where all processes meet; null: its name
    address: HostName | None = None
    port: Annotated[int, Field(ge=1024, le=65535)] = 29500

    @model_validator(mode="after")
    def _one_list(self) -> Self:
        if (self.slots is None) == (self.file is None):
            raise ValueError(
                "either slots, such as {gpu1: 8, gpu2: 8}, or file, with a line such as "
                "`gpu1 slots=8` for each host, and null for the other"
            )
        return self

    @model_validator(mode="after")
    def _launcher_names_the_host(self) -> Self:
        try:
            words = shlex.split(self.launcher)
        except ValueError as error:
            raise ValueError(f"launcher: {error}") from None
        if not any("{host}" in word for word in words):
            raise ValueError("launcher: must name {host}, such as ssh {host}")
        return self

    def launching(self, host: str, command: str) -> list[str]:
        """The words that run `command`, in the shell's language, on a host."""
        words = [word.replace("{host}", host) for word in shlex.split(self.launcher)]
        return [*words, command]


def host_slots(hosts: Hosts, processes: int, root: Path) -> Mapping[str, int]:
    """How many processes run on each host, in the order of their ranks.

    root: what a relative path of a hostfile is below; raises SettingsError that names the line
    """
    if hosts.slots is not None:
        return hosts.slots
    assert hosts.file is not None
    path = root / Address("hosts.file", hosts.file).path
    slots = _read_hostfile(path)
    if sum(slots.values()) != processes:
        raise SettingsError(f"{path}: {unequal(slots, processes)}")
    return slots


def unequal(slots: Mapping[str, int], processes: int) -> str:
    """What is wrong where the slots of all hosts are not as many as `engine.processes`."""
    total = sum(slots.values())
    return (
        f"the slots of {len(slots)} host(s) are {total} together, and engine.processes is "
        f"{processes}: it counts those of all hosts"
    )


def _read_hostfile(path: Path) -> dict[str, int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"hosts.file: {path}: {reason}") from None
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            raise SettingsError(f"{path}:{number}: expected `HOST slots=N`, found {text!r}")
        if match["host"] in slots:
            raise SettingsError(f"{path}:{number}: {match['host']} stands there twice")
        slots[match["host"]] = int(match["slots"])
    if not slots:
        raise SettingsError(f"{path}: names no host; expected lines `HOST slots=N`")
    return slots
