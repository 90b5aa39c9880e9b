"""How long a step takes at a card's rates: floating-point operations of passes, bytes that decoding reads.

What cards tell each other, and what they wait for, is not counted.
"""

from dataclasses import dataclass

from rlhf.common.errors import SettingsError
from rlhf.plan import memory
from rlhf.plan.machine import BANDWIDTH_SHARE, COMPUTE_SHARE, Hardware
from rlhf.plan.memory import Ways
from rlhf.plan.models import Learning, TrainedSection, learning, roles, shares_trunk
from rlhf.plan.shapes import ModelShape
from rlhf.settings import Settings
from rlhf.settings.training import Dpo, RewardModel, Sft

# of dense bf16: the matrix units of these cards are idle in float32
_FP32_SHARE = 1 / 15


@dataclass(frozen=True)
class Speed:
    """What a card does a second in a long run: operations, and bytes of memory read."""

    flops: float
    bandwidth: float
    assumed: str


@dataclass(frozen=True)
class StageTime:
    """Seconds of a step (an iteration of ppo), by part, and how many there are at most; None: data say."""

    stage: str
    parts: dict[str, float]
    steps: int | None

    @property
    def seconds(self) -> float:
        """Of a step."""
        return sum(self.parts.values())


def speed_of(
    machine: Hardware, *, bf16: bool, flops: float | None = None, bandwidth: float | None = None
) -> Speed | None:
    """A part of what the maker says, or what is given; None where neither is known."""
    rates = machine.rates
    if rates is None and (flops is None or bandwidth is None):
        return None
    if flops is not None and bandwidth is not None:
        return Speed(flops, bandwidth, "as given")
    assert rates is not None
    compute = COMPUTE_SHARE if bf16 else COMPUTE_SHARE * _FP32_SHARE
    read = BANDWIDTH_SHARE
    told = f"{rates.source}: {rates.flops / 1e12:g} TFLOP/s, {rates.bandwidth / 1e9:g} GB/s"
    if rates.measured:
        compute = read = 1.0
    else:
        told += f", of which {compute:.0%} and {read:.0%} are reached"
    if flops is not None or bandwidth is not None:
        told += "; the other as given"
    return Speed(flops or rates.flops * compute, bandwidth or rates.bandwidth * read, told)


# -- operations ------------------------------------------------------------------------------------


def forward_flops(shape: ModelShape, tokens: float, length: float, targets: float) -> float:
    """Of one pass: two operations a weight and token; scores and sums of attention; logits of the targets."""
    blocks = 2 * shape.blocks * shape.block * tokens
    attention = 4 * shape.blocks * shape.query * length * tokens
    return blocks + attention + 2 * targets * shape.width * shape.vocabulary


def step_flops(
    shape: ModelShape,
    own: Learning,
    tokens: float,
    length: float,
    targets: float,
    *,
    recompute: bool,
    on_trunk: bool = False,
) -> float:
    """Forward and backward; the latter costs twice the former, and as much where weights are frozen.

    on_trunk: the states below the blocks that learn are there already
    """
    forward = forward_flops(shape, tokens, length, targets)
    share = own.blocks / shape.blocks
    by_adapters = own.total > shape.parameters
    before = share if on_trunk else 1.0
    return forward * (before + share * ((1 if by_adapters else 2) + (1 if recompute else 0)))


def decode_seconds(
    shape: ModelShape, rows: int, prompt: int, count: int, size: int, speed: Speed
) -> float:
    """Of drawing `count` tokens for each of `rows` prompts, with weights and cache of `size` bytes.

    Each token reads all weights, and the keys and values so far.
    """
    read = shape.parameters * size + memory.cache(shape, rows, prompt + count // 2, size)
    work = forward_flops(shape, rows, prompt + count / 2, rows)
    each = max(read / speed.bandwidth, work / speed.flops)
    prompts = forward_flops(shape, rows * prompt, prompt, rows) / speed.flops
    return prompts + count * each


# -- stages ----------------------------------------------------------------------------------------


def stage_time(
    stage: str, settings: Settings, shape: ModelShape, ways: Ways, speed: Speed
) -> StageTime | None:
    """Of a stage, its texts as long as the settings allow; None where the settings leave it out."""
    if stage == "ppo":
        return _policy_time(settings, shape, ways, speed)
    section: TrainedSection | None = getattr(settings, stage)
    if section is None:
        return None
    data = settings.data
    own = learning(shape, section.trainable_layers, section.lora)
    answers = 2 if isinstance(section, RewardModel | Dpo) else 1
    length = data.max_prompt_tokens + answers * data.max_response_tokens
    tokens = section.batch_tokens / ways.processes
    targets = tokens * answers * data.max_response_tokens / length
    if isinstance(section, RewardModel):
        targets /= 2
    work = step_flops(shape, own, tokens, min(length, tokens), targets, recompute=ways.recompute)
    steps = None if isinstance(section, Sft) else section.max_steps
    return StageTime(stage, {"learn": work / speed.flops}, steps)


def _policy_time(settings: Settings, shape: ModelShape, ways: Ways, speed: Speed) -> StageTime:
    ppo, data = settings.ppo, settings.data
    own = learning(shape, ppo.trainable_layers, ppo.lora)
    longest = ppo.max_response_tokens or data.max_response_tokens
    length = data.max_prompt_tokens + longest
    rows = ppo.rollouts / ways.processes
    tokens, targets = rows * length, rows * longest
    at_once = min(ppo.sampling.batch_size or rows, rows)

    # 1. responses, as many batches of them as there are
    size = 2 if ways.bf16 else memory.FLOAT
    batch = decode_seconds(
        shape, int(max(at_once, 1)), data.max_prompt_tokens, longest, size, speed
    )
    parts = {"sample": batch * rows / at_once}

    # 2. every model reads them, on the states of a trunk where they share one; two give logits
    found = roles(settings)
    on_trunk = shares_trunk(settings, ways)
    reading = forward_flops(shape, tokens, length, 0)
    with_logits = forward_flops(shape, tokens, length, targets)
    work = sum(with_logits if role.name in ("policy", "reference") else reading for role in found)
    if on_trunk:
        share = own.blocks / shape.blocks
        work = share * work + (1 - share) * reading
    parts["score"] = work / speed.flops

    # 3. those that learn
    learnt = 0.0
    for role in found:
        if role.learns:
            wanted = targets if role.name == "policy" else 0
            learnt += step_flops(
                *(shape, own, tokens, length, wanted),
                recompute=ways.recompute,
                on_trunk=on_trunk,
            )
    parts["learn"] = ppo.epochs * learnt / speed.flops
    before = ppo.critic.pretraining_iterations if ppo.critic is not None else 0
    return StageTime("ppo", parts, ppo.iterations + before)


def parse_rate(text: str, key: str) -> float:
    """`400T`, `2000G` or a plain number, as operations or bytes a second; raises SettingsError."""
    units = {"G": 1e9, "T": 1e12}
    number, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1.0)
    try:
        value = float(number) * unit
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise SettingsError(f"{key} {text}: expected a rate a second as 400T, 2000G or 1.5e12")
    return value
