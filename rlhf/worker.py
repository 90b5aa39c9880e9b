"""`python -m rlhf.worker STAGE`: run one stage of the chain in this process, as a flow or a GPU worker starts it."""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path

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
        from rlhf.sft import train as run
    elif name in ("reward", "gold"):
        from rlhf import reward

        role: reward.Role = "gold" if name == "gold" else "reward"
        return lambda settings, workspace: reward.train(settings, workspace, role)
    elif name == "ppo":
        from rlhf.policy import train as run
    elif name == "evaluate":
        from rlhf.evaluation.evaluate import evaluate as run
    elif name == "report":
        from rlhf.report.build import build as run
    else:
        raise RlhfError(f"no stage {name!r}; the stages are: {', '.join(STAGES)}")
    return run


def main(arguments: list[str] | None = None) -> int:
    """Run the stage named on the command line; 0 done, 1 a fault told in one message, 130 interrupted."""
    names = sys.argv[1:] if arguments is None else arguments
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    logging.getLogger("rlhf").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if len(names) != 1:
            raise RlhfError(f"usage: python -m rlhf.worker STAGE; the stages are: {', '.join(STAGES)}")
        workspace = Workspace(Path())
        stage_function(names[0])(load_settings(workspace.params), workspace)
    except RlhfError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'file system'}: {error.strerror or error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; a training stage goes on from its last checkpoint when it is run again", file=sys.stderr)
        return 130
    return 0


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
