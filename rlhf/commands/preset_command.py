"""`rlhf preset`: whole settings files."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from rlhf.commands.context import CliContext
from rlhf.common.errors import SettingsError
from rlhf.common.files import write_text
from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_names, preset_text
from rlhf.settings.edit import changed, edited
from rlhf.settings.presets import preset_about
from rlhf.settings.variants import VARIANTS
from rlhf.workspace import Workspace


def preset(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Which one; without it they are listed.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite a params.yaml that you have edited.")
    ] = False,
    variant: Annotated[
        str | None,
        typer.Option(
            help=f"Variant of the preset; from apa on beyond the paper: {', '.join(VARIANTS)}."
        ),
    ] = None,
) -> None:
    """Write a preset to params.yaml, or list the presets.

    \b
    rlhf preset                            list them
    rlhf preset tiny                       minutes, a random model: does the machinery run?
    rlhf preset laptop --variant vanilla   PPO without any of the constraints
    """
    cli: CliContext = context.obj
    if name is None:
        _list_presets(cli)
        return
    params = cli.workspace.params
    text = preset_text(name)
    # what a preset wrote may be replaced: nothing of the user's own is in it
    if params.exists() and not force and not _written_preset(cli.workspace):
        raise SettingsError(
            f"{params}: edited since it was written from a preset; --force overwrites it"
        )
    written = name
    if variant is not None:
        text = edited(text, variant_changes(variant), f"preset {name}")
        written = f"{name}, {variant}"
    write_text(params, text)
    typer.echo(f"{params}: preset {written}. Next: rlhf doctor, then dvc repro")


def variant_changes(name: str) -> Mapping[str, Any]:
    """The keys that a variant sets; raises SettingsError with the known ones."""
    if name not in VARIANTS:
        raise SettingsError(f"--variant: no variant {name!r}; there are: {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _list_presets(cli: CliContext) -> None:
    table = Table("preset", "what it is", box=None)
    written = _written_preset(cli.workspace)
    base = written.split(",")[0] if written else None
    for name in preset_names():
        mark = " *" if name == base else ""
        table.add_row(f"{name}{mark}", escape(preset_about(name)))
    cli.console.print(table)
    params = escape(str(cli.workspace.params))
    if written:
        cli.console.print(f"* what {params} holds: {written}")
    elif cli.workspace.params.exists():
        cli.console.print(f"{params} holds settings of your own")


def _written_preset(workspace: Workspace) -> str | None:
    """The preset, or preset and variant, that params.yaml holds to the letter."""
    if not workspace.params.is_file():
        return None
    # a file that is not UTF-8 is no preset
    text = workspace.params.read_bytes().decode(errors="replace")
    # a variant may be what a preset says anyway: then the preset's name is the better one
    presets = {name: preset_text(name) for name in preset_names()}
    for name, whole in presets.items():
        if whole == text:
            return name
    try:
        content = parse_yaml(text, str(workspace.params))
    except SettingsError:
        return None
    for name, whole in presets.items():
        plain = parse_yaml(whole, name)
        for variant, changes in VARIANTS.items():
            # most are another one by their values; to write one out takes long
            if changed(plain, changes) == content and edited(whole, changes, name) == text:
                return f"{name}, {variant}"
    return None
