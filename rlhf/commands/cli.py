"""The `rlhf` command: what a user does by hand. The stages themselves are run by `dvc repro` or the pipeline flow."""

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from rlhf import __version__
from rlhf.commands.doctor import IMPORTS, diagnose
from rlhf.commands.overview import spoken, stage_states
from rlhf.common.errors import ModelError, RlhfError, SettingsError
from rlhf.common.files import write_text
from rlhf.settings import load_settings, preset_names, preset_text
from rlhf.settings.edit import edited
from rlhf.settings.evaluation import Generation
from rlhf.settings.variants import VARIANTS
from rlhf.workspace import Workspace

if TYPE_CHECKING:
    from rlhf.commands.chat import Chat

app = typer.Typer(
    name="rlhf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fault": "[red]fault[/]"}
HELP_IN_CHAT = "/reset begins anew, /quit (or Ctrl-D) ends, /help shows this"


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a fault is told in one message (exit code 1), Ctrl-C gives 130."""
    try:
        app(arguments)
    except RlhfError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@dataclass(frozen=True)
class Shared:
    """What all commands get."""

    workspace: Workspace
    console: Console


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
    rlhf preset laptop                write params.yaml
    rlhf show                         what the stages measured so far
    rlhf chat policy                  talk with the trained model
    rlhf chat sft --prompt "Hello"    one answer, then end
    rlhf compare challenger champion  which of two registered models is better?
    rlhf annotate                     let people compare the models' answers
    """
    if not root.is_dir():
        raise RlhfError(f"--workspace {root}: no such directory")
    context.obj = Shared(Workspace(root), Console())


@app.command()
def preset(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Which one; without it they are listed.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a params.yaml that you have edited.")
    ] = False,
    variant: Annotated[
        str | None, typer.Option(help=f"Algorithm of the paper: {', '.join(VARIANTS)}.")
    ] = None,
) -> None:
    """Write a whole settings file to params.yaml, or list those there are.

    \b
    rlhf preset                            list them
    rlhf preset tiny                       seconds, a random model: does the machinery run?
    rlhf preset laptop --variant vanilla   PPO without any of the constraints
    """
    workspace: Workspace = context.obj.workspace
    if name is None:
        _list_presets(context.obj)
        return
    text = preset_text(name)
    if workspace.params.exists() and not force and not _present_preset(workspace):
        raise SettingsError(
            f"{workspace.params}: edited since it was written from a preset; --force overwrites it"
        )
    if variant is not None:
        text = edited(text, _variant(variant), f"preset {name}")
    write_text(workspace.params, text)
    shown = name if variant is None else f"{name}, {variant}"
    typer.echo(f"{workspace.params}: preset {shown}. Next: rlhf doctor, then dvc repro")


def _variant(name: str) -> Mapping[str, Any]:
    if name not in VARIANTS:
        raise SettingsError(f"--variant: no variant {name!r}; there are: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _list_presets(shared: Shared) -> None:
    table = Table("preset", "what it is", box=None)
    present = _present_preset(shared.workspace)
    for name in preset_names():
        table.add_row(
            f"{name} *" if present and name == present.split(",")[0] else name,
            escape(_about(preset_text(name))),
        )
    shared.console.print(table)
    if present:
        shared.console.print(f"* what {escape(str(shared.workspace.params))} holds: {present}")
    elif shared.workspace.params.exists():
        shared.console.print(f"{escape(str(shared.workspace.params))} holds settings of your own")


def _present_preset(workspace: Workspace) -> str | None:
    """The preset, or preset and variant, that params.yaml holds to the letter."""
    if not workspace.params.is_file():
        return None
    content = workspace.params.read_bytes().decode(errors="replace")
    texts = {name: preset_text(name) for name in preset_names()}
    for name, text in texts.items():
        if text == content:
            return name
    for name, text in texts.items():
        for variant in VARIANTS:
            if edited(text, VARIANTS[variant], name) == content:
                return f"{name}, {variant}"
    return None


def _about(text: str) -> str:
    """The comment at the top of a preset."""
    lines = text.splitlines()
    end = next((index for index, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return " ".join(line.lstrip("# ").strip() for line in lines[:end])


@app.command()
def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out importing the large packages.")
    ] = False,
) -> None:
    """Tell what this machine and workspace have and lack; exit code 1 if something essential is missing."""
    shared: Shared = context.obj
    with Console(stderr=True).status("looking (packages are imported, which takes a while)"):
        found = diagnose(shared.workspace, () if quick else IMPORTS)
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=2))
        raise typer.Exit(0 if found.healthy else 1)
    table = Table("", "what", Column("found", overflow="fold"), box=None)
    for check in found.checks:
        advice = f"\n[dim]{escape(check.advice)}[/]" if check.advice else ""
        table.add_row(MARKS[check.state], escape(check.name), escape(check.found) + advice)
    shared.console.print(table)
    done = [name for name, ready in found.stages.items() if ready]
    shared.console.print(
        f"stages done: {', '.join(done) or 'none'}; dvc status tells which are stale"
    )
    shared.console.print("ready" if found.healthy else "not ready: mend what is marked fault")
    raise typer.Exit(0 if found.healthy else 1)


@app.command()
def show(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="All metrics, not only the key ones.")
    ] = False,
) -> None:
    """Show what the stages measured (metrics/*.json)."""
    shared: Shared = context.obj
    table = Table("stage", "metric", "value", box=None)
    for stage in stage_states(shared.workspace):
        values = {key: spoken(value) for key, value in stage.chosen(everything).items()}
        if not values:
            table.add_row(stage.name, "done" if stage.done else "[dim]not run yet[/]", "")
        for index, (key, value) in enumerate(values.items()):
            table.add_row(stage.name if index == 0 else "", escape(key), escape(value))
    shared.console.print(table)
    shared.console.print("[dim]as the stages left it; dvc status tells which are stale by now[/]")


@app.command()
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
    from rlhf.commands.chat import (
        model_directory,
        open_chat,
    )  # torch and transformers take seconds to import

    if prompt == "-":
        prompt = sys.stdin.read().strip()
    if prompt is not None and not prompt.strip():
        raise RlhfError("--prompt: nothing to answer")
    workspace: Workspace = context.obj.workspace
    given = {
        "temperature": temperature or None,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "max_new_tokens": max_new_tokens,
    }
    generation = _generation(workspace).model_copy(
        update={key: value for key, value in given.items() if value is not None}
    )
    directory = model_directory(model, workspace)
    talk = open_chat(
        directory,
        workspace,
        generation,
        seed=seed,
        greedy=temperature == 0,
        score=score,
        system=system,
    )
    if prompt is not None:
        _answer(talk, prompt)
        return
    typer.echo(f"{directory}: {HELP_IN_CHAT}", err=True)
    while (line := _ask()) is not None:
        if line == "/reset":
            talk.reset()
            typer.echo("(forgotten)", err=True)
        elif line.startswith("/"):
            typer.echo(HELP_IN_CHAT, err=True)
        elif line:
            try:
                _answer(talk, line)
            except ModelError as error:  # a message too long for the window: the dialogue goes on
                typer.echo(f"error: {error}", err=True)


@app.command()
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
    workspace: Workspace = context.obj.workspace
    words = [challenger, baseline, *(["--promote"] if promote else [])]
    # The registry is MLflow's, which this package does not import: the flow of that name has its own process
    raise typer.Exit(_waited_for([sys.executable, "-m", "flows.compare", *words], workspace.root))


@app.command()
def annotate(
    context: typer.Context,
    challenger: Annotated[str, typer.Argument(help="Whose answers are compared,")] = "policy",
    baseline: Annotated[str, typer.Argument(help="and with whose.")] = "sft",
    host: Annotated[
        str,
        typer.Option(help="Where to listen; another address lets others in, without a password."),
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
    from rlhf.annotation.pairs import read_pairs
    from rlhf.annotation.serve import serve
    from rlhf.annotation.store import VoteStore

    workspace: Workspace = context.obj.workspace
    store = VoteStore(workspace.votes, load_settings(workspace.params).seed)
    if export is not None:
        typer.echo(f"{export}: {store.export(export)} votes, of all pairs")
        return
    store.serve(read_pairs(workspace.comparisons, challenger, baseline))
    serve(store, host, port, typer.echo)


def _waited_for(command: list[str], directory: Path) -> int:
    """Run a command to its end and give its exit code; Ctrl-C, which reaches it too, is for it to obey in its own time."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(
            signal.SIGINT, lambda *_: None
        )  # not SIG_IGN, which the command would inherit
    try:
        code = subprocess.run(command, cwd=directory, check=False).returncode
    finally:
        signal.signal(signal.SIGINT, before)
    return code if code >= 0 else 128 - code


def _generation(workspace: Workspace) -> Generation:
    from rlhf.commands.chat import DEFAULT_GENERATION

    return (
        load_settings(workspace.params).evaluate.generation
        if workspace.params.exists()
        else DEFAULT_GENERATION
    )


def _ask() -> str | None:
    """One line of the user, None at the end."""
    try:
        line = input("> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
    return None if line in ("/quit", "/exit") else line


def _answer(talk: "Chat", text: str) -> None:
    """Print a reply as it comes, and its scores."""
    before = talk.forgotten
    try:
        for piece in talk.reply(text):
            typer.echo(piece, nl=False)
            sys.stdout.flush()
    finally:
        typer.echo()
    if talk.forgotten > before:
        typer.echo(
            "(the beginning of the dialogue no longer fits into the window and was forgotten)",
            err=True,
        )
    scores = talk.scores()
    if scores:
        typer.echo("  ".join(f"{name} {value:+.3f}" for name, value in scores.items()), err=True)
