"""`rlhf credit`: which tokens of an answer a DPO model gives credit."""

from pathlib import Path
from typing import Annotated

import typer

from rlhf.commands.context import CliContext
from rlhf.common.errors import RlhfError
from rlhf.common.files import write_text

_ONE_OF_BOTH = "--prompt with --response, or --row: say what to look at"


def credit(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Option(help="A user's message.")] = None,
    response: Annotated[str | None, typer.Option(help="An answer to it.")] = None,
    row: Annotated[
        int | None, typer.Option(help="A pair of the preferences' test split, from 0.")
    ] = None,
    model: Annotated[Path, typer.Option(help="A model directory.")] = Path("models/dpo"),
    reference: Annotated[Path, typer.Option(help="What it was trained against.")] = Path(
        "models/sft"
    ),
    beta: Annotated[
        float | None, typer.Option(min=1e-9, help="That of stage dpo, unless given.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The page to write.")] = Path("credit.html"),
) -> None:
    """Show which tokens a DPO model gives credit: a page with tokens coloured by beta log(pi / pi_ref).

    \b
    rlhf credit --row 3
    rlhf credit --prompt "How do I boil an egg?" --response "Put it in water for ten minutes."
    """
    # before anything is loaded
    has_text = prompt is not None and response is not None
    if (prompt is None) != (response is None) or has_text == (row is not None):
        raise RlhfError(_ONE_OF_BOTH)

    # torch and transformers take seconds to import
    from rlhf.commands.credit import (
        credit_page,
        credited,
        dialogue_of_row,
        dialogue_of_text,
        load_pair,
    )
    from rlhf.models.saving import load_tokenizer

    cli: CliContext = context.obj
    root = cli.workspace.root
    directory, other = root / model, root / reference
    ours, theirs, scale = load_pair(directory, other, beta)
    tokenizer = load_tokenizer(directory)
    if prompt is not None and response is not None:
        dialogue = dialogue_of_text(tokenizer, prompt, response)
    if row is not None:
        dialogue = dialogue_of_row(cli.workspace, row)
    answers = credited(dialogue, ours, theirs, tokenizer, scale)
    page = root / output
    write_text(page, credit_page(dialogue, answers, model, reference, scale))
    for answer in answers:
        typer.echo(f"{answer.title}: {answer.total:+.3f} over {len(answer.tokens)} tokens")
    typer.echo(f"{page}")
