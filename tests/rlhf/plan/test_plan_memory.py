"""Bytes by hand, by DeepSpeed's own estimate, and by what autograd keeps."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from rlhf.batches.padding import pad
from rlhf.models.attention import GROUPED
from rlhf.models.backbone import hidden_states, token_logprobs
from rlhf.models.trainable import choose_trainable
from rlhf.plan import memory
from rlhf.plan.memory import Ways
from rlhf.plan.shapes import ModelShape, read_shape
from rlhf.settings.training import Lora

PLAIN = Ways(processes=1, zero=0, bf16=False, recompute=False, fused=False)
# plain torch in bf16, and bf16 weights under DeepSpeed, both without a fused attention
AUTOCAST = replace(PLAIN, bf16=True)
IN_BF16 = replace(AUTOCAST, zero=2)
EIGHT = Ways(processes=8, zero=2, bf16=True, recompute=True, fused=True)
P = 1000.0


def test_plain_torch_takes_sixteen_bytes_a_parameter() -> None:
    states = memory.weights(P, P, PLAIN) + memory.optimiser(P, PLAIN) + memory.gradients(P, PLAIN)
    assert states == 16 * P
    assert memory.resting_gradients(P, PLAIN) == 0
    assert memory.buffers(P, PLAIN) == 0


@pytest.mark.parametrize(
    ("zero", "weights", "optimiser", "gradients", "resting"),
    [
        # whole bf16 weights; a float32 copy with two moments on eight; float32 gradients beside bf16
        (1, 2 * P, 12 * P / 8, 6 * P, 4 * P),
        (2, 2 * P, 12 * P / 8, 6 * P / 8, 0.0),
        (3, 2 * P / 8, 12 * P / 8, 4 * P / 8, 4 * P / 8),
    ],
)
def test_zero_by_hand(
    zero: int, weights: float, optimiser: float, gradients: float, resting: float
) -> None:
    ways = replace(EIGHT, zero=zero)
    assert memory.weights(P, P, ways) == weights
    assert memory.optimiser(P, ways) == optimiser
    assert memory.gradients(P, ways) == gradients
    assert memory.resting_gradients(P, ways) == resting


@pytest.mark.parametrize(
    ("zero", "offload", "weights", "gradients", "host"),
    [
        # float32 weights, moments and gradients; the bf16 copy by which weights come back
        (1, "optimizer", 2 * P, 6 * P, 18 * P),
        # the card adds gradients up in float32
        (2, "optimizer", 2 * P, 4 * P / 8, 18 * P),
        # the host does, in a place of their own
        (3, "optimizer", 2 * P / 8, 0.0, 20 * P),
        (3, "optimizer-and-parameters", 0.0, 0.0, 22 * P),
    ],
)
def test_what_is_on_the_host_by_hand(
    zero: int, offload: str, weights: float, gradients: float, host: float
) -> None:
    ways = replace(EIGHT, zero=zero, offload=offload)
    assert memory.weights(P, P, ways) == weights
    assert memory.optimiser(P, ways) == 0
    assert memory.gradients(P, ways) == gradients
    assert memory.resting_gradients(P, ways) == (4 * P if zero == 1 else 0)
    assert sum(memory.offloaded(P, ways, pinned=False).values()) == host
    assert memory.offloaded(P, replace(EIGHT, zero=zero), pinned=False) == {}


def test_pinned_blocks_are_rounded_up_to_a_power_of_two() -> None:
    """float32 weights of 500 bytes a process, their copy of 250, and gradients; moments are not pinned."""
    ways = replace(EIGHT, offload="optimizer")
    found = memory.offloaded(P, ways, pinned=True)
    assert found == {"optimiser": 8 * (8 * 125 + 512 + 256), "gradients": 8 * 512}


def test_a_gradient_goes_to_the_host_by_way_of_one_more() -> None:
    on_host = replace(EIGHT, offload="optimizer")
    assert memory.buffers(P, on_host, 10.0) - memory.buffers(P, EIGHT, 10.0) == 2 * 10


def test_zero_3_is_what_deepspeed_estimates() -> None:
    ways = replace(EIGHT, zero=3)
    count = 7_000_000_000
    states = (
        memory.weights(count, count, ways)
        + memory.optimiser(count, ways)
        + memory.gradients(count, ways)
    )
    _, card, largest = estimate_zero3_model_states_mem_needs(
        count, 10, num_gpus_per_node=8, cpu_offload=False, cpu_offload_params=False
    )
    assert states == card - largest


def test_what_is_frozen_stays_whole_under_zero_3() -> None:
    ways = replace(EIGHT, zero=3)
    assert memory.weights(P, 80.0, ways) == 2 * (P - 80) + 2 * 80 / 8


def test_a_model_in_parts_by_hand(llama: ModelShape) -> None:
    whole = memory.frozen_weights(llama, EIGHT, spread=False)
    assert whole == 2 * llama.parameters
    outside = 2 * 32000 * 4096 + 4096
    parts = memory.frozen_weights(llama, EIGHT, spread=True)
    assert parts == 2 * (outside + 32 * llama.block / 8 + 3 * llama.block)
    host = memory.frozen_weights(llama, EIGHT, spread=True, on_host=True)
    assert host == 2 * (outside + 3 * llama.block)


def test_the_cache_of_llama_7b_takes_half_a_mebibyte_a_token(llama: ModelShape) -> None:
    assert memory.cache(llama, rows=1, length=1, size=2) == 2**19
    # sixteen rows of 1024 + 512
    assert memory.cache(llama, rows=16, length=1536, size=2) == 16 * 1536 * 2**19


def test_autocast_copies_blocks_and_the_unembedding(llama: ModelShape) -> None:
    assert memory.copies(llama, 3, 1, AUTOCAST) == 2 * (3 * llama.block + 4096 * 32000)
    assert memory.copies(llama, 3, 0, AUTOCAST) == 2 * 3 * llama.block
    # weights that are bf16 already, or are read in float32
    assert memory.copies(llama, 3, 1, EIGHT) == memory.copies(llama, 3, 1, PLAIN) == 0


def test_the_states_between_blocks_are_float32_under_autocast(llama: ModelShape) -> None:
    assert (PLAIN.residual, AUTOCAST.residual, IN_BF16.residual) == (4, 4, 2)
    again = memory.activations(llama, 10, 10, 32, AUTOCAST, recompute=True)
    one = memory.activations(llama, 10, 10, 1, AUTOCAST, recompute=True)
    assert again - one == 31 * 10 * 4096 * 4


@pytest.mark.parametrize("ways", [PLAIN, AUTOCAST])
def test_a_loss_has_four_tables_at_once_and_one_is_to_spare(llama: ModelShape, ways: Ways) -> None:
    """By the most bytes that are alive in forward and backward pass of the tokens' log-probabilities."""
    count, size, wide = 64, 512, 8
    shape = replace(llama, width=wide, vocabulary=size)
    states = torch.randn(count, wide, requires_grad=True)
    weight = torch.randn(size, wide, requires_grad=True)
    with Alive() as alive:
        with torch.autocast("cpu", torch.bfloat16, enabled=ways.autocast):
            logits = torch.nn.functional.linear(states, weight).float() / 0.7
        token_logprobs(logits, torch.zeros(count, dtype=torch.long)).sum().backward()
    table = count * size * 4
    assert alive.most / table == pytest.approx(4, rel=0.05)
    # and of logits in bf16 half a table
    spare = 1.5 if ways.bf16 else 1
    assert memory.logits(shape, count, ways) / table == 4 + spare


class Alive(TorchDispatchMode):
    """Counts the bytes of what operations make for as long as it is there."""

    def __init__(self) -> None:
        super().__init__()
        self.most = 0
        self._made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        read = {id_of(value) for value in tree_leaves((args, kwargs)) if torch.is_tensor(value)}
        found = func(*args, **(kwargs or {}))
        for value in tree_leaves(found):
            # a view makes nothing
            if torch.is_tensor(value) and id_of(value) not in read:
                storage = value.untyped_storage()
                self._made[id_of(value)] = StorageWeakRef(storage), storage.nbytes()
        self._made = {key: made for key, made in self._made.items() if not made[0].expired()}
        self.most = max(self.most, sum(size for _, size in self._made.values()))
        return found


def id_of(value: torch.Tensor) -> int:
    return value.untyped_storage()._cdata


@pytest.mark.parametrize("width", [24, 96])
@pytest.mark.parametrize(
    ("ways", "learns"), [(PLAIN, True), (IN_BF16, True), (AUTOCAST, True), (AUTOCAST, False)]
)
def test_a_block_keeps_what_autograd_keeps(width: int, ways: Ways, learns: bool) -> None:
    """The difference of a model with four blocks and one with two, on a CPU.

    Autocast's copies of weights too, whether the weights learn or adapters.
    """
    kept, shape = [], None
    for blocks in (2, 4):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=32,
            hidden_size=64,
            intermediate_size=160,
            num_hidden_layers=blocks,
            num_attention_heads=4,
            num_key_value_heads=2,
            attn_implementation=GROUPED,
        )
        model = LlamaForCausalLM(config).eval()
        shape = read_shape(config.to_dict(), "test", "test")
        model.to(torch.bfloat16 if ways.weight == 2 else torch.float32)
        choose_trainable(model, None, None if learns else Lora(rank=1), 1, "test")
        with torch.autocast("cpu", torch.bfloat16, enabled=ways.autocast):
            kept.append(saved_bytes(model, rows=3, width=width))
    assert shape is not None
    planned = memory.block_activations(shape, 3 * width, width, ways)
    planned += memory.copies(shape, 1, 0, ways)
    if not learns:
        # its two norms read what they do, and need nothing for their own weights
        planned -= 3 * width * 2 * shape.width * ways.residual
    assert (kept[1] - kept[0]) / 2 == pytest.approx(planned, rel=0.02)


def saved_bytes(model: PreTrainedModel, rows: int, width: int) -> int:
    """Of all tensors that the backward pass needs, each once, without the weights."""
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    seen: dict[int, int] = {}
    alive: list[torch.Tensor] = []

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
            # or its place would be given to another
            alive.append(value)
        return value

    batch = pad([[1] * width] * rows, [[True] * width] * rows, pad_id=0)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        hidden_states(model, batch)
    return sum(seen.values())


def test_recomputed_activations_are_the_inputs_of_blocks_and_one_block(llama: ModelShape) -> None:
    kept = memory.activations(llama, 1000, 100, 32, replace(EIGHT, recompute=False))
    again = memory.activations(llama, 1000, 100, 32, EIGHT)
    one = memory.block_activations(llama, 1000, 100, EIGHT)
    assert kept - again == 31 * one - 32 * 1000 * 4096 * 2
