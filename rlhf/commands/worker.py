"""`python -m rlhf.commands.worker STAGE`: run one stage of the chain in this process, as a flow or a GPU worker starts it."""

import sys
from collections.abc import Callable
from pathlib import Path

from rlhf.common.command import guarded
from rlhf.common.errors import RlhfError
from rlhf.settings import Settings, load_settings
from rlhf.workspace import STAGES, Workspace

Run = Callable[[Settings, Workspace], object]


def stage_function(name: str) -> Run:
    """Import and give the function of a stage; imports are local so that a stage loads only what it needs."""
    if name == "fetch":
        from rlhf.data.fetch import fetch as run
    elif name == "prepare":
        from rlhf.data.prepare import prepare as run
    elif name == "sft":
        from rlhf.training.sft import train as run
    elif name in ("reward", "gold"):
        from rlhf.training import reward

        role: reward.Role = "gold" if name == "gold" else "reward"
        return lambda settings, workspace: reward.train(settings, workspace, role)
    elif name == "ppo":
        from rlhf.training.loop import train as run
    elif name == "evaluate":
        from rlhf.evaluation.evaluate import evaluate as run
    elif name == "report":
        from rlhf.report.build import build as run
    else:
        raise RlhfError(f"no stage {name!r}; the stages are: {', '.join(STAGES)}")
    return run


def main(arguments: list[str] | None = None) -> int:
    """Run the stage named on the command line; gives the exit code."""
    names = sys.argv[1:] if arguments is None else arguments

    def run() -> None:
        if len(names) != 1:
            raise RlhfError(
                f"usage: python -m rlhf.commands.worker STAGE; the stages are: {', '.join(STAGES)}"
            )
        workspace = Workspace(Path())
        stage_function(names[0])(load_settings(workspace.params), workspace)

    return guarded(run)


if __name__ == "__main__":
    sys.exit(main())
