"""`python -m rlhf.commands.worker STAGE`: run one stage of the chain in this process.

A flow starts it, alone or under torchrun.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rlhf.common.command import run_as_command
from rlhf.common.errors import RlhfError
from rlhf.common.rank_log import write_own_log
from rlhf.settings import load_settings
from rlhf.stages import STAGES, find_stage
from rlhf.workspace import Workspace


def main(arguments: list[str] | None = None) -> int:
    """Run the stage named on the command line; gives the exit code."""
    write_own_log()
    return run_as_command(partial(_run, sys.argv[1:] if arguments is None else arguments))


def _run(names: Sequence[str]) -> None:
    if len(names) != 1:
        raise RlhfError(
            f"usage: python -m rlhf.commands.worker STAGE; the stages are: {', '.join(STAGES)}"
        )
    stage = find_stage(names[0])
    workspace = Workspace(Path())
    settings = load_settings(workspace.params)
    stage.load()(settings, workspace)


if __name__ == "__main__":
    sys.exit(main())
