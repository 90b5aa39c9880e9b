"""`rlhf annotate`: people compare answers."""

from pathlib import Path
from typing import Annotated

import typer

from rlhf.commands.context import CliContext
from rlhf.settings import load_settings


def annotate(
    context: typer.Context,
    challenger: Annotated[str, typer.Argument(help="Model to evaluate.")] = "policy",
    baseline: Annotated[str, typer.Argument(help="Model to compare it with.")] = "sft",
    host: Annotated[
        str,
        typer.Option(
            help="Where to listen. On another address others get in by the link that is printed."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    export: Annotated[
        Path | None, typer.Option(help="Write the votes so far to this file and end.")
    ] = None,
) -> None:
    """Let people compare answers, blind and pairwise, on a page in their browser.

    \b
    rlhf annotate                           serve the pairs of policy and sft
    rlhf annotate --export votes.jsonl      then add "people:votes.jsonl" to evaluate.judges
    """
    # pandas and uvicorn take seconds to import
    from rlhf.annotation.pairs import read_pairs
    from rlhf.annotation.serve import serve
    from rlhf.annotation.store import VoteStore

    cli: CliContext = context.obj
    workspace = cli.workspace
    store = VoteStore(workspace.votes, load_settings(workspace.params).seed)
    if export is not None:
        typer.echo(f"{export}: {store.export(export)} votes, of all pairs")
        return
    store.serve(read_pairs(workspace.comparisons, challenger, baseline))
    serve(store, host, port, typer.echo)
