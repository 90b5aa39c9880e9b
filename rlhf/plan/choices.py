"""A plan for settings on a machine; what other choices would take, and which keys to change to make it fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlhf.common.errors import SettingsError
from rlhf.plan.machine import Hardware
from rlhf.plan.memory import Ways
from rlhf.plan.shapes import ModelShape
from rlhf.plan.stages import STAGE_NAMES, StageMemory, stage_memory, ways_of
from rlhf.settings import Settings
from rlhf.settings.edit import changed
from rlhf.settings.read import settings_from

LORA: Mapping[str, Any] = {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": None}
OFFLOADS = ("optimizer", "optimizer-and-parameters")
# of a card: what saves less is not worth a change
_WORTH = 0.02
_MOST_CHANGES = 60


@dataclass(frozen=True)
class Plan:
    """The memory of all stages for settings on a machine.

    content: the settings as a mapping; notes: what was changed in them for the machine
    """

    content: Mapping[str, Any]
    settings: Settings
    shape: ModelShape
    machine: Hardware
    ways: Ways
    stages: tuple[StageMemory, ...]
    notes: tuple[str, ...] = ()

    @property
    def memory(self) -> float:
        """Bytes that a process has: of its card, or its part of a CPU's host."""
        if self.machine.is_cpu:
            return self.machine.memory / self.ways.processes
        return self.machine.memory

    def fits(self, stage: StageMemory) -> bool:
        """Whether a stage does, the margin left."""
        share = self.machine.usable / self.machine.memory
        return stage.peak.total <= share * self.memory and self.loads(stage)

    def loads(self, stage: StageMemory) -> bool:
        """Whether the host's memory is enough while its models are loaded; on a CPU it is the card's."""
        host = self.machine.host
        return self.machine.is_cpu or host is None or stage.host <= host

    @property
    def misfits(self) -> list[StageMemory]:
        """The stages that do not fit."""
        return [stage for stage in self.stages if not self.fits(stage)]


def make_plan(
    content: Mapping[str, Any],
    shape: ModelShape,
    machine: Hardware,
    *,
    fast_bf16: bool,
    notes: tuple[str, ...] = (),
) -> Plan:
    """Plan for settings as they are; raises SettingsError where they are not valid.

    fast_bf16: what `engine.precision: auto` finds on the machine
    """
    try:
        settings = settings_from(content)
    except SettingsError as error:
        if not notes:
            raise
        raise SettingsError(
            f"{error}\n{', '.join(notes)}: set for {machine.name}; take another number of cards, "
            "or change what does not go with it"
        ) from None
    precision = settings.engine.precision
    bf16 = precision == "bf16" or (precision == "auto" and fast_bf16)
    ways = ways_of(settings, machine, bf16=bf16)
    found = (stage_memory(name, settings, shape, machine, ways) for name in STAGE_NAMES)
    stages = tuple(stage for stage in found if stage is not None)
    return Plan(content, settings, shape, machine, ways, stages, notes)


def for_machine(
    content: Mapping[str, Any], machine: Hardware
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The settings with a process a card, and what was changed for it; on a CPU as they are."""
    engine = content["engine"]
    if machine.is_cpu:
        return content, ()
    wanted: dict[str, Any] = {}
    if engine["processes"] != machine.cards:
        wanted["engine.processes"] = machine.cards
    if machine.cards > 1 and engine["kind"] == "torch":
        wanted["engine.kind"] = "deepspeed"
    share, odd = divmod(content["ppo"]["mini_batch"], machine.cards)
    micro = content["ppo"]["micro_batch"]
    if not odd and share % micro:
        # the micro-batches of a card make up its share of a mini-batch
        wanted["ppo.micro_batch"] = max(size for size in range(1, micro) if share % size == 0)
    return changed(content, wanted), tuple(f"{key}: {value}" for key, value in wanted.items())


def remade(plan: Plan, changes: Mapping[str, Any]) -> Plan | None:
    """The plan with keys changed; None where the settings would not be valid."""
    try:
        content = changed(plan.content, changes)
        return make_plan(content, plan.shape, plan.machine, fast_bf16=plan.ways.bf16)
    except SettingsError:
        return None


# -- other choices ---------------------------------------------------------------------------------


def alternatives(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """What each ZeRO stage, place of the frozen models, offload and LoRA would take, by name."""
    adapters = {key: LORA for key in _lora_keys(plan)}
    off = {key: None for key in adapters}
    if plan.ways.zero == 0:
        for again in (False, True):
            recompute = {"engine.gradient_checkpointing": again}
            name = "activations recomputed" if again else "activations kept"
            yield from _named(plan, name, {**recompute, **off})
            yield from _named(plan, f"{name}, LoRA", {**recompute, **adapters})
        return
    for stage in (1, 2, 3):
        zero = {"engine.offload": "none", "engine.zero_stage": stage}
        for where in ("whole", "sharded", "host"):
            changes = {**zero, "engine.frozen_models": where, **off}
            yield from _named(plan, f"ZeRO-{stage}, frozen {where}", changes)
        for offload in () if plan.machine.is_cpu else OFFLOADS:
            # with all else that can be there
            on_host = {"engine.frozen_models": "host", "engine.offload": offload}
            yield from _named(plan, f"ZeRO-{stage}, {offload} on host", {**zero, **on_host, **off})
        yield from _named(plan, f"ZeRO-{stage}, LoRA", {**zero, **adapters})


def _named(plan: Plan, name: str, changes: Mapping[str, Any]) -> Iterator[tuple[str, Plan]]:
    other = remade(plan, changes)
    if other is not None:
        yield name, other


def _lora_keys(plan: Plan) -> list[str]:
    return [f"{name}.lora" for name in STAGE_NAMES if plan.content.get(name) is not None]


# -- what to change --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Advice:
    """Keys with the values that they should have, and the plan that follows."""

    changes: Mapping[str, Any] = field(default_factory=dict)
    plan: Plan | None = None

    @property
    def fits(self) -> bool:
        """Whether all stages then fit."""
        return self.plan is not None and not self.plan.misfits


def advise(plan: Plan) -> Advice:
    """Change one key after the other, what costs least first, until all stages fit or nothing helps.

    Changes that later ones have made needless are left out.
    """
    changes: dict[str, Any] = {}
    now = plan
    for _ in range(_MOST_CHANGES):
        if not now.misfits:
            break
        for key, value in _candidates(now):
            other = remade(now, {key: value})
            if other is not None and _helps(now, other):
                changes[key] = value
                now = other
                break
        else:
            break
    return _without_needless(plan, Advice(changes, now))


def _without_needless(plan: Plan, advice: Advice) -> Advice:
    """The advice without each change that all stages fit without; those that learn otherwise go first."""
    for key in reversed(list(advice.changes)) if advice.fits else ():
        fewer = {other: value for other, value in advice.changes.items() if other != key}
        smaller = Advice(fewer, remade(plan, fewer))
        if smaller.fits:
            # with this one gone, one before it may still go
            return _without_needless(plan, smaller)
    return advice


def _helps(now: Plan, other: Plan) -> bool:
    """Whether the host comes to hold all, or a stage that does not fit becomes smaller by something worth it."""
    held, holds = (all(map(one.loads, one.stages)) for one in (now, other))
    if held != holds:
        return holds
    after = {stage.stage: stage for stage in other.stages}
    saved = (stage.peak.total - after[stage.stage].peak.total for stage in now.misfits)
    return max(saved) > _WORTH * now.memory


def _candidates(plan: Plan) -> Iterator[tuple[str, Any]]:
    """Keys and their next values: first those that change no number, last those that learn otherwise."""
    engine, settings = plan.settings.engine, plan.settings
    stages = [stage.stage for stage in plan.misfits]
    if plan.ways.offloads and not all(map(plan.loads, plan.stages)):
        yield "engine.offload", "none"
    if "ppo" in stages and plan.ways.zero and engine.frozen_models == "whole":
        yield "engine.frozen_models", "sharded"
    if not engine.gradient_checkpointing:
        yield "engine.gradient_checkpointing", True
    if "ppo" in stages:
        rows = settings.ppo.rollouts // plan.ways.processes
        size = min(settings.ppo.sampling.batch_size or rows, rows)
        if size > 1:
            yield "ppo.sampling.batch_size", size // 2
        if settings.ppo.micro_batch > 1:
            yield "ppo.micro_batch", settings.ppo.micro_batch // 2
    longest = settings.data.max_prompt_tokens + 2 * settings.data.max_response_tokens
    for name in stages:
        tokens = getattr(getattr(settings, name), "micro_batch_tokens", 0)
        if tokens > longest:
            yield f"{name}.micro_batch_tokens", max(longest, tokens // 2)
    if plan.ways.zero in (1, 2):
        yield "engine.zero_stage", plan.ways.zero + 1
    if "ppo" in stages and plan.ways.zero and engine.frozen_models == "sharded":
        yield "engine.frozen_models", "host"
    if plan.ways.zero and not plan.machine.is_cpu:
        if not plan.ways.offloads:
            yield "engine.offload", "optimizer"
        elif not plan.ways.offloads_weights:
            yield "engine.offload", "optimizer-and-parameters"
    if not plan.ways.bf16 and not plan.machine.is_cpu:
        yield "engine.precision", "bf16"
    for name in stages:
        if getattr(settings, name).lora is None:
            yield f"{name}.lora", dict(LORA)
