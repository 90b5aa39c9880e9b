"""`rlhf compare`: two models of the registry against each other."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from rlhf.commands.context import CliContext


def compare(
    context: typer.Context,
    challenger: Annotated[
        str,
        typer.Argument(help="champion, challenger, NAME@ALIAS, NAME/VERSION, or NAME: its newest."),
    ],
    baseline: Annotated[str, typer.Argument(help="The same.")],
    promote: Annotated[
        bool, typer.Option("--promote", help="Make it champion if evaluate.promotion allows.")
    ] = False,
) -> None:
    """Compare two models of MLflow's registry on the held-out prompts, by the first of evaluate.judges.

    \b
    rlhf compare challenger champion --promote
    rlhf compare policy/3 sft
    """
    cli: CliContext = context.obj
    # the registry is MLflow's, which this package does not import: the flow has its own process
    command = [sys.executable, "-m", "flows.compare", challenger, baseline]
    if promote:
        command.append("--promote")
    raise typer.Exit(run_to_end(command, cli.workspace.root))


def run_to_end(command: Sequence[str], directory: Path) -> int:
    """Run a command and give its exit code.

    Ctrl-C reaches it too, and it has records to close: here it is waited for.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        # not SIG_IGN, which the command would inherit
        signal.signal(signal.SIGINT, _ignore)
    try:
        code = subprocess.run(command, cwd=directory, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    # killed by a signal: as a shell has it
    return code if code >= 0 else 128 - code


def _ignore(_signal: int, _frame: object) -> None:
    return None
