"""`rlhf export-reward`: a reward model as transformers' own sequence classifier."""

from pathlib import Path
from typing import Annotated

import typer

from rlhf.commands.context import CliContext
from rlhf.common.errors import RlhfError


def export_reward(
    context: typer.Context,
    target: Annotated[Path, typer.Argument(help="The directory to write; it must not exist.")],
    model: Annotated[Path, typer.Option(help="A reward model of the chain.")] = Path(
        "models/reward"
    ),
) -> None:
    """Write a reward model so that AutoModelForSequenceClassification loads it.

    It takes no room twice: its weights are further names of the same files, where the disk can. What is to
    be added to its score stands in config.json as score_bias, since transformers' classifiers have none.

    \b
    rlhf export-reward models/reward-hf
    """
    # before anything is loaded
    cli: CliContext = context.obj
    written = cli.workspace.root / target
    if written.exists():
        raise RlhfError(f"{written}: is there already; name a directory that is not")

    # torch and transformers take seconds to import
    from rlhf.models.export import export_classifier

    bias = export_classifier(cli.workspace.root / model, written)
    typer.echo(f"{written}: a sequence classifier; score of {model} = its score {bias:+.6f}")
