"""What all commands of `rlhf` get from the options before them."""

from dataclasses import dataclass

from rich.console import Console

from rlhf.workspace import Workspace


@dataclass(frozen=True)
class CliContext:
    """The workspace that `--workspace` names, and where to print tables; typer's `context.obj`."""

    workspace: Workspace
    console: Console
