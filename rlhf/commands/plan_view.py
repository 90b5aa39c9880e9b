"""What `rlhf plan` prints."""

import json
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from rlhf.plan.choices import Plan, advise, alternatives
from rlhf.plan.machine import GB
from rlhf.plan.memory import KINDS, Kind
from rlhf.plan.speed import Speed, stage_time
from rlhf.plan.stages import STAGE_NAMES, StageMemory

_HOUR = 3600.0
# as columns have them
_SHORT: Mapping[Kind, str] = {
    "gradients": "grad",
    "optimiser": "optim",
    "activations": "activ",
    "runtime": "other",
}


def print_plan(console: Console, plan: Plan, name: str) -> None:
    """Memory by stage, by model and kind, by other choices; and what to change."""
    _print_head(console, plan, name)
    _print_stages(console, plan)
    for stage in plan.stages:
        _print_items(console, stage)
    _print_alternatives(console, plan)
    _print_advice(console, plan)


def _print_head(console: Console, plan: Plan, name: str) -> None:
    shape, engine, ways = plan.shape, plan.settings.engine, plan.ways
    kind = f"deepspeed, ZeRO-{ways.zero}" if ways.zero else "torch"
    told = [
        f"{escape(name)} on {escape(plan.machine.name)}",
        f"{escape(shape.name)}: {shape.parameters / 1e9:.3g} billion parameters, {shape.blocks} blocks "
        f"({escape(shape.source)})",
        f"{kind}, {'bf16' if ways.bf16 else 'fp32'}, {ways.processes} process(es), activations "
        f"{'recomputed' if ways.recompute else 'kept'}, frozen models {engine.frozen_models}, "
        f"offload {engine.offload}",
    ]
    if plan.notes:
        told.append(f"changed for this machine: {', '.join(plan.notes)}")
    for line in told:
        console.print(line)


def _print_stages(console: Console, plan: Plan) -> None:
    console.print(
        f"\nGB a card of {plan.memory / GB:.1f}, at the peak of each stage; at worst, as long as texts may be"
    )
    table = Table("stage", "peak while", "GB", "spare", "largest", "GB of host", "", box=None)
    for stage in plan.stages:
        peak, largest = stage.peak, stage.peak.largest
        fits = "[green]fits[/]" if plan.fits(stage) else "[red]does not fit[/]"
        host = "" if plan.machine.is_cpu else f"{stage.host / GB:.0f}"
        if not plan.loads(stage):
            host = f"[red]{host}[/]"
        spare = f"{1 - peak.total / plan.memory:.0%}"
        item = f"{largest.model}: {largest.kind}, {largest.size / GB:.1f}"
        table.add_row(
            stage.stage, peak.name, f"{peak.total / GB:.1f}", spare, escape(item), host, fits
        )
    console.print(table)


def _print_items(console: Console, stage: StageMemory) -> None:
    peak = stage.peak
    models = list(dict.fromkeys(item.model for item in peak.items))
    kinds = [kind for kind in KINDS if any(item.kind == kind for item in peak.items)]
    console.print(f"\n{stage.stage}, {peak.name}")
    shown_kinds = [_SHORT.get(kind, kind) for kind in kinds]
    columns = [Column(kind, justify="right") for kind in (*shown_kinds, "sum")]
    table = Table("model", *columns, box=None, padding=(0, 2, 0, 0))
    for model in models:
        sizes = [
            sum(item.size for item in peak.items if (item.model, item.kind) == (model, kind))
            for kind in kinds
        ]
        shown = [f"{size / GB:.2f}" if size else "" for size in sizes]
        table.add_row(escape(model), *shown, f"{sum(sizes) / GB:.2f}")
    console.print(table)
    others = [f"{one.name} {one.total / GB:.1f}" for one in stage.phases if one is not peak]
    if others:
        console.print(f"[dim]other phases: {', '.join(others)}[/]")
    if stage.kept:
        _print_kept(console, stage)


def _print_kept(console: Console, stage: StageMemory) -> None:
    """What models leave in host memory, and what loading one takes beside it."""
    models = dict.fromkeys(item.model for item in stage.kept)
    told = [
        f"{model} "
        + " + ".join(
            f"{_SHORT.get(item.kind, item.kind)} {item.size / GB:.1f}"
            for item in stage.kept
            if item.model == model
        )
        for model in models
    ]
    console.print(
        f"in host memory, of all processes: {escape('; '.join(told))}; "
        f"and {stage.loading / GB:.1f} while a model is loaded"
    )


def _print_alternatives(console: Console, plan: Plan) -> None:
    names = [stage.stage for stage in plan.stages]
    console.print("\nOther choices, GB a card at the peak of each stage (* does not fit)")
    table = Table("", *(Column(name, justify="right") for name in names), box=None)
    for name, other in alternatives(plan):
        cells = [
            f"{stage.peak.total / GB:.1f}{' ' if other.fits(stage) else '*'}"
            for stage in other.stages
        ]
        table.add_row(name, *cells)
    console.print(table)


def _print_advice(console: Console, plan: Plan) -> None:
    if not plan.misfits:
        console.print("\n[green]Every training stage fits, with a tenth to spare.[/]")
        return
    names = ", ".join(stage.stage for stage in plan.misfits)
    console.print(f"\n[red]{names}: does not fit with a tenth to spare.[/]")
    for stage in plan.misfits:
        if not plan.loads(stage):
            console.print(
                f"{stage.stage}: {plan.ways.processes} processes take {stage.host / GB:.0f} GB of the host's "
                f"{(plan.machine.host or 0) / GB:.0f}; fewer processes, less offload, or a larger host"
            )
    advice = advise(plan)
    if not advice.changes or advice.plan is None:
        console.print(
            "No key that a plan can turn makes it smaller: larger cards, more of them, a smaller model."
        )
        return
    console.print(
        "To make it fit:" if advice.fits else "This is as far as settings go, and not enough:"
    )
    for key, value in advice.changes.items():
        console.print(f"  {key}: {escape(json.dumps(value))}")
    peaks = ", ".join(
        f"{stage.stage} {stage.peak.total / GB:.1f} GB" for stage in advice.plan.stages
    )
    host = max(stage.host for stage in advice.plan.stages)
    told = "" if plan.machine.is_cpu else f"; of the host {host / GB:.0f} GB"
    console.print(f"[dim]then: {peaks}{told}[/]")


def print_times(console: Console, plan: Plan, speed: Speed | None, price: float | None) -> None:
    """Seconds of a step, hours of a run, and what they cost."""
    if speed is None:
        console.print(
            "\nTime: no rates are known for this card; --flops and --bandwidth give them."
        )
        return
    console.print(
        f"\nTime, at {speed.flops / 1e12:.3g} TFLOP/s and {speed.bandwidth / 1e9:.3g} GB/s a card "
        f"({speed.assumed}); communication and waiting are not counted"
    )
    cost = ["cost"] if price is not None else []
    table = Table("stage", "seconds a step", "of these", "steps", "hours", *cost, box=None)
    for name in STAGE_NAMES:
        time = stage_time(name, plan.settings, plan.shape, plan.ways, speed)
        if time is None:
            continue
        parts = ", ".join(f"{part} {seconds:.3g}" for part, seconds in time.parts.items())
        row = [name, f"{time.seconds:.3g}", parts if len(time.parts) > 1 else ""]
        if time.steps is None:
            table.add_row(*row, "as data say", "", *([""] if cost else []))
            continue
        hours = time.seconds * time.steps / _HOUR
        paid = [] if price is None else [f"{hours * price * plan.ways.processes:.0f}"]
        table.add_row(*row, f"{time.steps}", f"{hours:.2g}", *paid)
    console.print(table)
