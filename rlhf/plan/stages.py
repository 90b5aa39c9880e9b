"""What each training stage has in memory, phase by phase, on one card; and on the host while it loads."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rlhf.plan import memory
from rlhf.plan.machine import GB, Hardware
from rlhf.plan.memory import Kind, Ways
from rlhf.plan.models import Learning, Role, TrainedSection, learning, roles, shares_trunk
from rlhf.plan.shapes import ModelShape
from rlhf.settings import Settings
from rlhf.settings.training import Dpo, RewardModel

# in the order in which they run
STAGE_NAMES = ("sft", "reward", "dpo", "process", "ppo", "gold")
# Python with torch and CUDA, and what a loader reads ahead: host memory of a process
_HOST_PROCESS = 3 * GB
# of no model
PROCESS = "process"
# tables [rows, V] that the sampler has at once
_SAMPLER_TABLES = 5


@dataclass(frozen=True)
class MemoryItem:
    """Bytes of one kind that belong to one model."""

    model: str
    kind: Kind
    size: float


@dataclass(frozen=True)
class Phase:
    """What is in memory at once."""

    name: str
    items: tuple[MemoryItem, ...]

    @property
    def total(self) -> float:
        """Bytes."""
        return sum(item.size for item in self.items)

    @property
    def largest(self) -> MemoryItem:
        """The largest item."""
        return max(self.items, key=lambda item: item.size)


@dataclass(frozen=True)
class StageMemory:
    """A stage's phases on one card, and its host memory.

    loading: bytes of all processes while a model is loaded; kept: what models leave on the host, of all
    """

    stage: str
    phases: tuple[Phase, ...]
    loading: float
    kept: tuple[MemoryItem, ...] = ()

    @property
    def host(self) -> float:
        """Bytes of host memory, the last model being loaded while the others are there."""
        return self.loading + sum(item.size for item in self.kept)

    @property
    def peak(self) -> Phase:
        """The phase that takes most."""
        return max(self.phases, key=lambda phase: phase.total)


def ways_of(settings: Settings, machine: Hardware, *, bf16: bool) -> Ways:
    """How the engine of the settings runs on the machine; bf16: what `precision` means there."""
    engine = settings.engine
    zero: Literal[0, 1, 2, 3] = engine.zero_stage if engine.kind == "deepspeed" else 0
    recompute, fused = engine.gradient_checkpointing, not machine.is_cpu
    return Ways(engine.processes, zero, bf16, recompute, fused, engine.offload)


def stage_memory(
    stage: str, settings: Settings, shape: ModelShape, machine: Hardware, ways: Ways
) -> StageMemory | None:
    """The memory of a stage; None where the settings leave it out."""
    if getattr(settings, stage) is None:
        return None
    # 1. what lies on the host, while a model is loaded and after
    loading = ways.processes * (shape.parameters * ways.weight + _HOST_PROCESS)
    kept = tuple(_present(_kept(stage, settings, shape, ways, pinned=not machine.is_cpu)))

    # 2. what is there beside it; a CPU's card is the host
    always = [MemoryItem(PROCESS, "runtime", machine.reserved)]
    if machine.is_cpu:
        always += [replace(item, size=item.size / ways.processes) for item in kept]
    if stage == "ppo":
        phases = _ppo_phases(settings, shape, ways)
    else:
        phases = _supervised_phases(stage, getattr(settings, stage), settings, shape, ways)
    whole = tuple(Phase(one.name, (*_present(one.items), *always)) for one in phases)
    return StageMemory(stage, whole, loading, kept)


def _kept(
    stage: str, settings: Settings, shape: ModelShape, ways: Ways, *, pinned: bool
) -> Iterator[MemoryItem]:
    """What models leave in host memory while a stage runs, of all processes."""
    section, models = getattr(settings, stage), [Role(stage, stage, learns=True)]
    if stage == "ppo":
        models = roles(settings)
    own = learning(shape, section.trainable_layers, section.lora)
    parts = settings.engine.frozen_models == "host" and section.lora is None
    for role in models:
        if role.learns:
            for kind, size in memory.offloaded(own.count, ways, pinned=pinned).items():
                yield MemoryItem(role.name, kind, size)
        elif parts and role.name != "policy":
            yield MemoryItem(role.name, "weights", shape.blocks * shape.block * ways.weight)


def _present(items: Iterable[MemoryItem]) -> Iterator[MemoryItem]:
    return (item for item in items if item.size > 0)


# -- a model that learns from a table --------------------------------------------------------------


def _supervised_phases(
    stage: str, section: TrainedSection, settings: Settings, shape: ModelShape, ways: Ways
) -> Iterator[Phase]:
    data = settings.data
    own = learning(shape, section.trainable_layers, section.lora)
    answers = 2 if isinstance(section, RewardModel | Dpo) else 1
    longest = data.max_prompt_tokens + answers * data.max_response_tokens
    batch = float(section.batch_tokens)
    if isinstance(section, RewardModel | Dpo):
        batch = max(batch, section.min_pairs * longest)
    # a process's share of a step
    step = batch / ways.processes
    # a row that is longer than a micro-batch may be is one
    tokens = max(longest, min(section.micro_batch_tokens, step))
    # at worst: prompts are short
    targets = {"sft": tokens, "dpo": tokens, "process": 0.0}.get(stage, tokens / 2)
    if isinstance(section, RewardModel) and section.lm_coefficient == 0:
        targets = 0.0
    resting = _states(stage, own, ways)
    passes = Passes(tokens, longest, targets, several=step > section.micro_batch_tokens)
    yield from learn(stage, shape, own, resting, passes, ways)


def _states(role: str, own: Learning, ways: Ways) -> list[MemoryItem]:
    return [
        MemoryItem(role, "weights", memory.weights(own.total, own.count, ways)),
        MemoryItem(role, "optimiser", memory.optimiser(own.count, ways)),
        MemoryItem(role, "gradients", memory.resting_gradients(own.count, ways)),
    ]


@dataclass(frozen=True)
class Passes:
    """The micro-batches of a step.

    tokens: of one, padding included, in rows of `length`; targets: those whose logits are computed
    several: whether a step has more than one, so that gradients are there before the last one
    """

    tokens: float
    length: int
    targets: float
    several: bool


def learn(
    role: str,
    shape: ModelShape,
    own: Learning,
    resting: Sequence[MemoryItem],
    passes: Passes,
    ways: Ways,
) -> Iterator[Phase]:
    """A model's step: the loss, with all activations; and the end of the backward pass, with all gradients."""
    tokens, length = passes.tokens, passes.length
    whole = memory.gradients(own.count, ways) - memory.resting_gradients(own.count, ways)
    gradients = MemoryItem(role, "gradients", whole)
    largest = min(shape.width * shape.vocabulary, own.count)
    buffers = MemoryItem(role, "buffers", memory.buffers(own.count, ways, largest))
    kept = memory.activations(shape, tokens, length, own.blocks, ways)
    copies = memory.copies(
        shape, _copied_blocks(shape, own, in_graph=not ways.recompute), passes.targets, ways
    )
    tables = MemoryItem(role, "logits", memory.logits(shape, passes.targets, ways))
    activations = (MemoryItem(role, "activations", kept), MemoryItem(role, "weights", copies))
    loss = (*resting, *activations, tables, buffers)
    if passes.several or ways.zero:
        yield Phase(f"learn {role}", (*loss, gradients))
        return
    yield Phase(f"loss of {role}", loss)
    one = memory.activations(shape, tokens, length, 1, ways)
    copy = memory.copies(shape, 1, 0, ways)
    activations = (MemoryItem(role, "activations", one), MemoryItem(role, "weights", copy))
    yield Phase(f"gradients of {role}", (*resting, gradients, *activations, buffers))


def _copied_blocks(shape: ModelShape, own: Learning, *, in_graph: bool) -> int:
    """Of how many blocks autocast has copies: of all in the graph; where weights learn, to the pass's end."""
    weights_learn = own.total == shape.parameters
    return own.blocks if in_graph or weights_learn else 1


# -- the policy stage ------------------------------------------------------------------------------


def _resting(
    settings: Settings, shape: ModelShape, own: Learning, ways: Ways
) -> Iterator[MemoryItem]:
    """What the models take between two passes."""
    ppo, where = settings.ppo, settings.engine.frozen_models
    spread = where != "whole" and ppo.lora is None and ways.zero > 0
    held: set[str] = set()
    for role in roles(settings):
        # with adapters one backbone serves all models of one origin
        shared = ppo.lora is not None and role.origin in held
        held.add(role.origin)
        if role.learns:
            states = _states(role.name, own, ways)
            if shared:
                added = (own.total - shape.parameters) * ways.weight
                states[0] = replace(states[0], size=added)
            yield from states
        elif not shared:
            kept = role.name == "policy"
            size = memory.frozen_weights(
                shape, ways, spread=spread and not kept, on_host=where == "host"
            )
            if role.name == "target":
                # it moves by steps that bf16 would round away
                size = float(shape.parameters * memory.FLOAT)
            yield MemoryItem(role.name, "weights", size)
    # plain torch keeps float32 weights, and samples from a copy
    if ways.bf16 and not ways.zero:
        yield MemoryItem("sampler", "weights", 2.0 * shape.parameters)


def _ppo_phases(settings: Settings, shape: ModelShape, ways: Ways) -> Iterator[Phase]:
    ppo, data = settings.ppo, settings.data
    own = learning(shape, ppo.trainable_layers, ppo.lora)
    resting = list(_resting(settings, shape, own, ways))
    longest = ppo.max_response_tokens or data.max_response_tokens
    length = data.max_prompt_tokens + longest
    rows = max(1, ppo.rollouts // ways.processes)
    micro = min(ppo.micro_batch, rows)
    # xpo and online-dpo learn from two responses to a prompt at once
    pairs = 2 if ppo.algorithm in ("xpo", "online-dpo") else 1
    # blocks that do not learn are run once for all models
    trunk = []
    if shares_trunk(settings, ways):
        states = rows * length * shape.width * memory.FLOAT
        trunk = [MemoryItem("trunk", "activations", float(states))]

    # 1. responses are drawn
    yield Phase("sample", (*resting, *_sampling(settings, shape, rows, own, ways)))

    # 2. what all models say of them
    targets = micro * longest
    copies = memory.copies(shape, _copied_blocks(shape, own, in_graph=False), targets, ways)
    passing = memory.passing(shape, micro * length, length, ways)
    yield Phase(
        "score",
        (
            *resting,
            *trunk,
            MemoryItem("policy", "weights", copies),
            MemoryItem("policy", "logits", memory.logits(shape, targets, ways)),
            MemoryItem("policy", "activations", passing),
            MemoryItem("policy", "buffers", memory.window(own.count, ways)),
        ),
    )

    # 3. those that learn do so in turn
    several = ppo.mini_batch // ways.processes > micro or ppo.ptx is not None
    for role in roles(settings):
        if role.learns:
            wanted = 0 if role.name in ("critic", "moving reward") else pairs * targets
            passes = Passes(pairs * micro * length, length, wanted, several)
            yield from learn(role.name, shape, own, [*resting, *trunk], passes, ways)
    if ppo.ptx is not None:
        text = math.ceil(ppo.ptx.windows / ways.processes) * data.pretrain_tokens
        passes = Passes(text, data.pretrain_tokens, text, several=True)
        for phase in learn("policy", shape, own, [*resting, *trunk], passes, ways):
            yield replace(phase, name="learn plain text")


def _sampling(
    settings: Settings, shape: ModelShape, rows: int, own: Learning, ways: Ways
) -> Iterator[MemoryItem]:
    ppo, data = settings.ppo, settings.data
    longest = ppo.max_response_tokens or data.max_response_tokens
    at_once = min(ppo.sampling.batch_size or rows, rows)
    size = 2 if ways.bf16 else memory.FLOAT
    length = data.max_prompt_tokens + longest
    yield MemoryItem("sampler", "cache", memory.cache(shape, at_once, length, size))
    prompts = min(memory.PROMPTS_AT_ONCE, at_once)
    reading = memory.passing(shape, prompts * data.max_prompt_tokens, data.max_prompt_tokens, ways)
    yield MemoryItem("sampler", "activations", reading)
    tables = _SAMPLER_TABLES * at_once * shape.vocabulary * memory.FLOAT
    yield MemoryItem("sampler", "logits", float(tables))
    if ways.zero == 3:
        # it reads whole weights, which ZeRO-3 keeps in parts
        gathered = own.count * ways.weight * (1 - 1 / ways.processes)
        yield MemoryItem("policy", "buffers", gathered)
