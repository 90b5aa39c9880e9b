"""The `rlhf` command: what a user does by hand.

The stages themselves are run by `dvc repro` or the pipeline flow. A command is a function of its own
module; here it is given its name.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from rlhf import __version__
from rlhf.commands.annotate_command import annotate
from rlhf.commands.chat_command import chat
from rlhf.commands.compare_command import compare
from rlhf.commands.context import CliContext
from rlhf.commands.credit_command import credit
from rlhf.commands.export_command import export_reward
from rlhf.commands.plan_command import plan
from rlhf.commands.preset_command import preset
from rlhf.commands.record_command import record
from rlhf.commands.search_command import search
from rlhf.commands.state_commands import doctor, show
from rlhf.commands.weights_command import weights
from rlhf.common.command import exit_on_fault
from rlhf.common.errors import RlhfError
from rlhf.workspace import Workspace

app = typer.Typer(
    name="rlhf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a fault is one message and exit code 1, Ctrl-C gives 130."""
    # click itself ends with 130 on Ctrl-C
    with exit_on_fault():
        app(arguments)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rlhf {__version__}")
        raise typer.Exit


@app.callback()
def shared(
    context: typer.Context,
    root: Annotated[
        Path, typer.Option("--workspace", "-C", help="The directory that holds params.yaml.")
    ] = Path(),
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show it.")
    ] = False,
) -> None:
    """Secrets of RLHF: supervised fine-tuning, reward model, PPO-max, evaluation and report.

    The chain itself is run by [bold]dvc repro[/]; this command is for what is done by hand around it.

    Examples:

    \b
    rlhf doctor                       is this machine ready?
    rlhf doctor --data my.jsonl       what do these data hold, and what of it can be used?
    rlhf preset laptop                write params.yaml
    rlhf plan --gpus 8x80             will it fit eight cards of 80 GB, and how long will it take?
    rlhf show                         what the stages measured so far
    rlhf chat policy                  talk with the trained model
    rlhf chat sft --prompt "Hello"    one answer, then end
    rlhf compare challenger champion  which of two registered models is better?
    rlhf weights policy@champion      bring MLflow the weights of a version kept by reference
    rlhf record                       tell MLflow what runs could not while it was away
    rlhf annotate                     let people compare the models' answers
    rlhf credit --row 0               which tokens a DPO model gives credit for an answer
    rlhf search "Hello"               a model's likeliest answers, by beam search
    rlhf export-reward DIRECTORY      a reward model as transformers' sequence classifier
    """
    # or each command would report a missing file of its own
    if not root.is_dir():
        raise RlhfError(f"--workspace {root}: no such directory")
    context.obj = CliContext(Workspace(root), Console())


# in the order of --help
for _command in (
    *(preset, plan, doctor, show, chat, compare, weights, record, annotate, credit, search),
):
    app.command()(_command)
app.command(name="export-reward")(export_reward)
