"""Whether the hosts of the settings can be reached and see the workspace."""

import subprocess
import sys

from rlhf.commands.check import Check
from rlhf.workspace import Workspace

_SECONDS = 120
_ADVICE = "rlhf/engine/several_hosts.md says what each needs"


def hosts_check(workspace: Workspace) -> Check:
    """Start on each what a training stage starts there, but for the training."""
    # it is above this package, which does not import it: a process of its own
    command = [sys.executable, "-m", "tasks.hosts", "--check"]
    try:
        done = subprocess.run(
            command,
            cwd=workspace.root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Check("hosts", "fault", f"no answer within {_SECONDS} s", _ADVICE)
    if done.returncode:
        found = done.stderr.strip().removeprefix("error: ")
        return Check("hosts", "fault", found, _ADVICE)
    return Check("hosts", "ok", done.stdout.strip())
