"""`rlhf doctor` and `rlhf show`: what the machine and the workspace have."""

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from rlhf.commands.context import CliContext
from rlhf.commands.doctor import Diagnosis, diagnose
from rlhf.commands.overview import StageState, stage_states
from rlhf.commands.package_checks import IMPORTS
from rlhf.common.shown import format_metric
from rlhf.settings import load_settings

_MARKS = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "fault": "[red]fault[/]"}


def doctor(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Leave out importing the large packages.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            help="Tell instead what a file, directory or address of data holds, and what of it can be used."
        ),
    ] = None,
) -> None:
    """Tell what this machine and workspace have and lack; exit code 1 if something essential is missing.

    With --data: which files are read, which rows are recognised and usable, why others are not, and
    three rows as the model reads them. Names of columns are mapped as data.columns has it.
    """
    cli: CliContext = context.obj
    if data is not None:
        _tell_data(cli, data, as_json=as_json)
        return
    # on stderr: what is asked for with --json is on stdout
    with Console(stderr=True).status("looking (packages are imported, which takes a while)"):
        diagnosis = diagnose(cli.workspace, () if quick else IMPORTS)
    if as_json:
        typer.echo(json.dumps(diagnosis.as_dict(), indent=2))
    else:
        _print_diagnosis(cli.console, diagnosis)
    raise typer.Exit(0 if diagnosis.healthy else 1)


def _tell_data(cli: CliContext, text: str, *, as_json: bool) -> None:
    # these take seconds to import
    from rlhf.commands.data_check import inspect_data
    from rlhf.commands.data_view import print_report

    settings = load_settings(cli.workspace.params)
    with Console(stderr=True).status("reading"):
        report = inspect_data(text, settings, cli.workspace)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
    else:
        print_report(cli.console, report)
    raise typer.Exit(0 if report.usable and not report.refused else 1)


def _print_diagnosis(console: Console, diagnosis: Diagnosis) -> None:
    table = Table("", "what", Column("found", overflow="fold"), box=None)
    for check in diagnosis.checks:
        advice = f"\n[dim]{escape(check.advice)}[/]" if check.advice else ""
        table.add_row(_MARKS[check.state], escape(check.name), escape(check.found) + advice)
    console.print(table)
    off = [f"{name} (off)" for name in diagnosis.off]
    done = [name for name, is_done in diagnosis.stages.items() if is_done]
    names = ", ".join([*(name for name in done if name not in diagnosis.off), *off]) or "none"
    console.print(f"stages done: {names}; `dvc status` shows which are out of date")
    console.print("ready" if diagnosis.healthy else "not ready: fix what is marked as a fault")


def _without_figures(stage: StageState) -> str:
    if stage.off:
        return "[dim]off[/]"
    return "done" if stage.done else "[dim]not run yet[/]"


def show(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="All metrics, not only the key ones.")
    ] = False,
) -> None:
    """Show what the stages measured (metrics/*.json)."""
    cli: CliContext = context.obj
    table = Table("stage", "metric", "value", box=None)
    for stage in stage_states(cli.workspace):
        metrics = stage.metrics if everything else stage.key_metrics
        if not metrics:
            table.add_row(stage.name, _without_figures(stage), "")
        name = stage.name
        for key, value in metrics.items():
            table.add_row(name, escape(key), escape(format_metric(value)))
            # only the first row of a stage has its name
            name = ""
    cli.console.print(table)
    cli.console.print(
        "[dim]as the stages left it; `dvc status` shows which are out of date by now[/]"
    )
