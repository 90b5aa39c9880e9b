"""A trainer's state, written by some number of processes in one layout and read by another in another."""

from itertools import product
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from rlhf.common.errors import TrainingError
from rlhf.engine.trainer_state import Shard, load_trainer_state, save_trainer_state

SIZES = {"embed.weight": 12, "block.weight": 5, "head.bias": 1}
KINDS = ("weights", "exp_avg", "exp_avg_sq")
Process = tuple[list[Shard], AdamW]


def process(shards: list[Shard]) -> Process:
    masters = {id(shard.master): shard.master for shard in shards}
    # AdamW wants one parameter at least
    return shards, AdamW([*masters.values(), nn.Parameter(torch.zeros(0))])


def in_a_row(rank: int, count: int) -> Process:
    """As ZeRO 1 and 2: all parameters end to end, cut into equal parts."""
    length = -(-sum(SIZES.values()) // count)
    master = nn.Parameter(torch.zeros(length))
    shards, begin = [], 0
    for name, size in SIZES.items():
        first, last = max(begin, rank * length), min(begin + size, (rank + 1) * length)
        if first < last:
            place = slice(first - rank * length, last - rank * length)
            shards.append(Shard(name, first - begin, master, place))
        begin += size
    return process(shards)


def one_by_one(rank: int, count: int) -> Process:
    """As ZeRO 3: each parameter cut into equal parts, and the parts end to end."""
    lengths = {name: -(-size // count) for name, size in SIZES.items()}
    master = nn.Parameter(torch.zeros(sum(lengths.values())))
    shards, offset = [], 0
    for name, length in lengths.items():
        first, last = rank * length, min((rank + 1) * length, SIZES[name])
        if first < last:
            shards.append(Shard(name, first, master, slice(offset, offset + last - first)))
        offset += length
    return process(shards)


def whole(_rank: int = 0, _count: int = 1) -> Process:
    """As plain torch."""
    masters = {name: nn.Parameter(torch.zeros(size)) for name, size in SIZES.items()}
    return process([Shard(name, 0, value, slice(None)) for name, value in masters.items()])


def value_of(kind: str, name: str) -> Tensor:
    """Every element of every kind is another number."""
    first = 1000 * KINDS.index(kind) + 100 * list(SIZES).index(name)
    return torch.arange(float(SIZES[name])) + first + 0.1


@torch.no_grad()
def fill(one: Process) -> None:
    shards, optimizer = one
    for shard in shards:
        state = optimizer.state[shard.master]
        for kind in KINDS:
            if kind != "weights":
                state.setdefault(kind, torch.zeros_like(shard.master))
            part = shard.of(shard.master if kind == "weights" else state[kind])
            part.copy_(value_of(kind, shard.name)[shard.start : shard.start + len(part)])
        state["step"] = torch.tensor(7.0)


def assert_filled(one: Process) -> None:
    shards, optimizer = one
    for shard, kind in product(shards, KINDS):
        state = optimizer.state[shard.master]
        part = shard.of(shard.master if kind == "weights" else state[kind])
        expected = value_of(kind, shard.name)[shard.start : shard.start + len(part)]
        assert torch.equal(part, expected) and state["step"] == 7.0


LAYOUTS = [(whole, 1), *product((in_a_row, one_by_one), (1, 2, 3, 4))]


@pytest.mark.parametrize(("layout", "count"), LAYOUTS)
def test_what_one_layout_writes_every_other_reads(tmp_path: Path, layout, count: int) -> None:
    for rank in range(count):
        written = layout(rank, count)
        fill(written)
        save_trainer_state(tmp_path, rank, 9, *written)
    for other, others in LAYOUTS:
        for rank in range(others):
            read = other(rank, others)
            assert load_trainer_state(tmp_path, *read) == 9
            assert_filled(read)


def test_a_parameter_without_a_gradient_has_no_moments(tmp_path: Path) -> None:
    shards, optimizer = whole()
    fill((shards, optimizer))
    del optimizer.state[shards[1].master]
    save_trainer_state(tmp_path, 0, 9, shards, optimizer)
    again, fresh = whole()
    load_trainer_state(tmp_path, again, fresh)
    assert [shard.master in fresh.state for shard in again] == [True, False, True]
    # kept in one with others it has those of zeros, and the others' count of steps
    flat, zero = in_a_row(0, 1)
    load_trainer_state(tmp_path, flat, zero)
    state = zero.state[flat[0].master]
    assert state["step"] == 7.0 and not flat[1].of(state["exp_avg"]).any()


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    for rank in range(2):
        written = in_a_row(rank, 2)
        fill(written)
        save_trainer_state(tmp_path, rank, 9, *written)
    (tmp_path / "exp_avg-00001.safetensors").unlink()
    message = r"3 elements of embed.weight are not in exp_avg-\*.safetensors.*remove the checkpoint"
    with pytest.raises(TrainingError, match=message):
        load_trainer_state(tmp_path, *whole())
