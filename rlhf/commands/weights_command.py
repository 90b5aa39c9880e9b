"""`rlhf weights`: bring the weights of a registered version to MLflow, out of DVC's cache or remote."""

import sys
from typing import Annotated

import typer

from rlhf.commands.compare_command import run_to_end
from rlhf.commands.context import CliContext


def weights(
    context: typer.Context,
    version: Annotated[str, typer.Argument(help="NAME@ALIAS, NAME/VERSION, or NAME: its newest.")],
) -> None:
    """Bring the weights of a version that was registered by reference, so that MLflow can load it.

    \b
    rlhf weights policy@champion
    """
    cli: CliContext = context.obj
    # the registry is MLflow's, which this package does not import
    command = [sys.executable, "-m", "tasks.weights", version]
    raise typer.Exit(run_to_end(command, cli.workspace.root))
