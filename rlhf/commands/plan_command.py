"""`rlhf plan`: will it fit, how long will it take, what to change."""

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from rlhf.commands.context import CliContext
from rlhf.commands.machine_checks import usable_memory
from rlhf.commands.plan_check import fast_bf16, local_machine
from rlhf.commands.plan_view import print_plan, print_times
from rlhf.commands.preset_command import variant_changes
from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.plan.choices import for_machine, make_plan
from rlhf.plan.machine import GB, Hardware, parse_machine
from rlhf.plan.shapes import find_shape
from rlhf.plan.speed import parse_rate, speed_of
from rlhf.settings import preset_text
from rlhf.settings.edit import changed
from rlhf.settings.read import settings_text
from rlhf.workspace import Workspace


def plan(
    context: typer.Context,
    preset: Annotated[
        str | None, typer.Option(help="Plan for a preset, in place of params.yaml.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="And this variant of it.")] = None,
    gpus: Annotated[
        str | None,
        typer.Option(
            help="CARDSxGIGABYTES or CARDSxNAME (8x80, 8xh100), or cpu; default: what is here."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A config.json or a known shape, in place of model.source.")
    ] = None,
    host_memory: Annotated[
        float | None,
        typer.Option(
            help="Of the host, in GB; else what is here, and with --gpus it is not judged.", min=0.1
        ),
    ] = None,
    flops: Annotated[
        str | None, typer.Option(help="Operations a second that a card reaches, as 120T.")
    ] = None,
    bandwidth: Annotated[
        str | None, typer.Option(help="Bytes a second that a card reads, as 1200G.")
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Of a card and hour, for the cost.", min=0)
    ] = None,
) -> None:
    """Tell before anything is loaded whether the stages fit, how long they take, and what to change.

    Exit code 1 if one does not fit with a tenth to spare. GB are 10^9 bytes. No weight is read.

    \b
    rlhf plan                                            these settings, on this machine
    rlhf plan --preset hh-7b --gpus 8x80                 the paper's setting, on eight cards
    rlhf plan --preset hh-7b --variant lora-all --gpus 2x80 --price 2.5
    rlhf plan --model my-model/config.json --gpus 1x24
    """
    cli: CliContext = context.obj
    # before all that takes time
    rates = {
        "flops": None if flops is None else parse_rate(flops, "--flops"),
        "bandwidth": None if bandwidth is None else parse_rate(bandwidth, "--bandwidth"),
    }
    content, name = _content(cli.workspace, preset, variant)
    machine = _machine(gpus, host_memory)
    content, notes = for_machine(content, machine)
    shape = find_shape(content["model"]["source"], cli.workspace, model)
    found = make_plan(content, shape, machine, fast_bf16=fast_bf16(machine), notes=notes)
    print_plan(cli.console, found, name)
    print_times(cli.console, found, speed_of(machine, bf16=found.ways.bf16, **rates), price)
    raise typer.Exit(1 if found.misfits else 0)


def _content(
    workspace: Workspace, preset: str | None, variant: str | None
) -> tuple[Mapping[str, Any], str]:
    """The settings as a mapping, and what they are called."""
    if preset is None:
        if variant is not None:
            raise SettingsError("--variant is of a preset: give --preset too")
        text, name = settings_text(workspace.params), str(workspace.params)
    else:
        text, name = preset_text(preset), f"preset {preset}"
    content = parse_yaml(text, name)
    if variant is not None:
        content = changed(content, variant_changes(variant))
        name = f"{name}, {variant}"
    return content, name


def _machine(gpus: str | None, host_memory: float | None) -> Hardware:
    host = None if host_memory is None else host_memory * GB
    if gpus is None:
        return local_machine() if host is None else local_machine().with_host(host)
    if gpus == "cpu" and host is None:
        host = float(usable_memory())
    return parse_machine(gpus, host)
