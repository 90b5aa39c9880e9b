"""The least time that an iteration of PPO can take on a machine: its arithmetic, and the weights that decoding reads."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import torch
from transformers import PreTrainedModel

_REPEATS = 5


@dataclass(frozen=True)
class Machine:
    """What was measured of it.

    flops: of a large matrix product, a second
    bandwidth: bytes read from memory, a second
    """

    flops: float
    bandwidth: float


def measure_machine(device: torch.device, precision: str) -> Machine:
    """Time matrix products and reads of memory, each after a first one."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn((size, size), device=device, dtype=dtype) for _ in range(2))
    product = _seconds(lambda: left @ right, device)
    # beyond any cache
    count = 2**30 if device.type == "cuda" else 2**27
    values = torch.ones(count, device=device, dtype=torch.float32)
    read = _seconds(values.sum, device)
    return Machine(2 * size**3 / product, count * values.element_size() / read)


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    times = []
    for _ in range(_REPEATS + 1):
        began = monotonic()
        action()
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(monotonic() - began)
    return statistics.median(times[1:])


@dataclass(frozen=True)
class Work:
    """An iteration with one epoch.

    flops: operations; traffic: bytes of weights that decoding reads
    """

    flops: float
    traffic: float

    def seconds(self, machine: Machine) -> float:
        """One after the other, as decoding waits for memory and the rest for arithmetic."""
        return self.flops / machine.flops + self.traffic / machine.bandwidth


def ppo_work(
    model: PreTrainedModel, prompt_tokens: int, response_tokens: int, steps: int, bytes_each: int
) -> Work:
    """The least that PPO has to do, all weights learning, without any padding.

    Ten passes through the blocks: sampling, which gives the old log-probabilities; reference, reward and
    critic score; policy and critic learn, forward and twice as much backward. Five times the language
    head, of response tokens alone: sampling, reference, and the policy's three. Attention's own products
    are left out: they are few at these lengths.

    prompt_tokens, response_tokens: of all rows together
    steps: of decoding, each of which reads all weights
    bytes_each: of a weight, as the sampler holds it
    """
    head = model.get_output_embeddings().weight.numel()
    blocks = sum(value.numel() for value in model.base_model.layers.parameters() if value.ndim > 1)
    tokens = prompt_tokens + response_tokens
    flops = 10 * 2 * blocks * tokens + 5 * 2 * head * response_tokens
    return Work(flops, steps * (blocks + head) * bytes_each)
