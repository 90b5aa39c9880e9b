"""`rlhf record`: tell MLflow what runs could not while it was away."""

import sys

import typer

from rlhf.commands.compare_command import run_to_end
from rlhf.commands.context import CliContext


def record(context: typer.Context) -> None:
    """Tell MLflow what runs could not while it was away. The next stage does it, too."""
    cli: CliContext = context.obj
    # this package does not import MLflow
    raise typer.Exit(run_to_end([sys.executable, "-m", "tasks.missed"], cli.workspace.root))
