"""Whether the settings fit this machine, said before a byte is loaded."""

from rlhf.commands.check import Check
from rlhf.commands.machine_checks import usable_memory
from rlhf.common.errors import RlhfError
from rlhf.plan.choices import Plan, make_plan
from rlhf.plan.machine import CARDS, GB, Hardware, parse_machine
from rlhf.plan.shapes import find_shape
from rlhf.settings import Settings
from rlhf.workspace import Workspace


def local_machine() -> Hardware:
    """The GPUs that are here, else the CPU, with the memory of this host."""
    # it takes seconds to import
    import torch

    host = float(usable_memory())
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return parse_machine("cpu", host)
    found = torch.cuda.get_device_properties(0)
    rates = [card.rates for name, card in CARDS.items() if name in found.name.lower()]
    name = f"{count} x {found.name}"
    return Hardware(name, count, float(found.total_memory), rates[0] if rates else None, host)


def fast_bf16(machine: Hardware) -> bool:
    """What `engine.precision: auto` finds there; any card that a plan names multiplies bf16 fast."""
    if not machine.is_cpu:
        return True
    # it takes seconds to import
    from rlhf.engine.precision import bf16_instructions

    return bool(bf16_instructions())


def plan_check(workspace: Workspace, settings: Settings) -> Check:
    """The plan for the settings as they are, on this machine."""
    try:
        machine = local_machine()
        shape = find_shape(settings.model.source, workspace)
        content = settings.model_dump(mode="json", by_alias=True)
        plan = make_plan(content, shape, machine, fast_bf16=fast_bf16(machine))
    except (RlhfError, ImportError, OSError) as error:
        return Check("plan", "ok", f"not made: {error}")
    largest = max(plan.stages, key=lambda stage: stage.peak.total)
    found = (
        f"{largest.stage} takes up to {largest.peak.total / GB:.1f} of {plan.memory / GB:.1f} GB"
    )
    if not plan.misfits:
        return Check("plan", "ok", found)
    return Check("plan", "note", f"{found}: {_short(plan)}", "`rlhf plan` says what to change")


def _short(plan: Plan) -> str:
    names = ", ".join(stage.stage for stage in plan.misfits)
    told = f"{names} may not fit, with a tenth to spare"
    too_large = [stage.host for stage in plan.stages if not plan.loads(stage)]
    if too_large:
        told += f"; {max(too_large) / GB:.0f} GB of host memory are wanted"
    return told
