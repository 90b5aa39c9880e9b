"""`rlhf chat`: talk with a model, on a terminal or one message."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from rlhf.commands.context import CliContext
from rlhf.common.errors import ModelError, RlhfError
from rlhf.settings import load_settings
from rlhf.settings.evaluation import Generation
from rlhf.workspace import Workspace

if TYPE_CHECKING:
    from rlhf.commands.chat import Chat

# where there are no settings
_DEFAULT_GENERATION = Generation(max_new_tokens=128)
_HELP = "/reset begins anew, /quit (or Ctrl-D) ends, /help shows this"
_FORGOTTEN = "(the beginning of the dialogue no longer fits into the window and was forgotten)"


def chat(
    context: typer.Context,
    model: Annotated[
        str, typer.Argument(help="base, sft, policy, or the path of a model directory.")
    ],
    prompt: Annotated[
        str | None, typer.Option(help="Answer this one message and end; - reads it from stdin.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, help="0 always takes the likeliest token.")
    ] = None,
    top_p: Annotated[float | None, typer.Option(min=1e-6, max=1.0, help="Nucleus.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(min=1e-6, help="1 for none.")] = None,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest reply.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed and words give the same replies.")] = 1,
    score: Annotated[
        bool, typer.Option("--score", help="Show what the reward and gold models say.")
    ] = False,
) -> None:
    """Talk with a model. What is not given is sampled as params.yaml has it for evaluation.

    \b
    rlhf chat policy --score
    rlhf chat models/sft --prompt "How do I boil an egg?" --temperature 0
    """
    # before anything is loaded
    if prompt == "-":
        prompt = sys.stdin.read().strip()
    if prompt is not None and not prompt.strip():
        raise RlhfError("--prompt: nothing to answer")

    # torch and transformers take seconds to import
    from rlhf.commands.chat import model_directory, open_chat

    cli: CliContext = context.obj
    given = {
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "max_new_tokens": max_new_tokens,
    }
    changes = {key: value for key, value in given.items() if value is not None}
    generation = _generation(cli.workspace).model_copy(update=changes)
    directory = model_directory(model, cli.workspace)
    session = open_chat(
        directory,
        cli.workspace,
        generation,
        seed=seed,
        score=score,
        system=system,
    )
    if prompt is not None:
        _answer(session, prompt)
    else:
        typer.echo(f"{directory}: {_HELP}", err=True)
        _hold_dialogue(session)


def _generation(workspace: Workspace) -> Generation:
    if not workspace.params.exists():
        return _DEFAULT_GENERATION
    return load_settings(workspace.params).evaluate.generation


def _hold_dialogue(session: "Chat") -> None:
    """Answer line after line until the user ends."""
    while (line := _read_line()) is not None:
        if line == "/reset":
            session.reset()
            typer.echo("(forgotten)", err=True)
        elif line.startswith("/"):
            typer.echo(_HELP, err=True)
        elif line:
            try:
                _answer(session, line)
            except ModelError as error:
                # a message too long for the window: the dialogue goes on
                typer.echo(f"error: {error}", err=True)


def _read_line() -> str | None:
    """One line of the user, None at the end."""
    try:
        line = input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    return None if line in ("/quit", "/exit") else line


def _answer(session: "Chat", text: str) -> None:
    """Print a reply as it comes, and its scores."""
    forgotten = session.forgotten
    try:
        for piece in session.reply(text):
            typer.echo(piece, nl=False)
            sys.stdout.flush()
    finally:
        typer.echo()
    if session.forgotten > forgotten:
        typer.echo(_FORGOTTEN, err=True)
    scores = session.scores()
    if scores:
        typer.echo("  ".join(f"{name} {value:+.3f}" for name, value in scores.items()), err=True)
