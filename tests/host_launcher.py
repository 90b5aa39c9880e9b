"""A launcher as ssh is one: a shell in a session of its own that has none of our environment.

What it started does not end with it. So two "hosts" are two shells of this machine, or of namespaces.
"""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

_SSH = """#!/bin/sh
host=$1
shift
case $host in
{cases}
esac
exec $enter env -i HOME="$HOME" PATH="$PATH" setsid --wait sh -c "$*"
"""


def write_launcher(folder: Path, entering: Mapping[str, Sequence[str]] | None = None) -> Path:
    """Write it to a folder; `entering` are for each host the words that bring a command there."""
    cases = [
        f"{host}) enter={shlex.quote(' '.join(words))};;"
        for host, words in (entering or {}).items()
    ]
    path = folder / "launcher"
    path.write_text(_SSH.format(cases="\n".join(cases)), encoding="utf-8")
    path.chmod(0o755)
    return path
