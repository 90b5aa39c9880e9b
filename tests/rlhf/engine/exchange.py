"""Checkpoints that one side writes and every other goes on from, at other numbers of processes too.

Under torchrun, `exchange.py FOLDER WAY...`: the first time all sides write into the folder. Each time
all go on from what is there, and rank 0 writes what came of it to a file named by the number of processes.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from toy import same, toy_model
from toy_steps import DROPPING, OPTIMIZER, STEP_BATCHES, STEPS, share_of, take_step, zero_engine

from rlhf.engine.base import Trainer
from rlhf.engine.processes import barrier, is_main
from rlhf.engine.single import TorchTrainer
from rlhf.models.trainable import choose_trainable

# a number format or what learns, and those who go on from each other there
Sides = Mapping[str, Sequence[str]]
SIDES: Sides = {
    "fp32": ("torch", "stage 1", "stage 2", "stage 3"),
    "adapters": ("torch", "stage 1", "stage 3"),
    # here DeepSpeed keeps its float32 weights in other places
    "bf16": ("stage 1", "stage 2", "stage 3"),
}
# steps before the checkpoint
BEFORE = 3


def new_trainer(way: str, side: str, seed: int) -> Trainer:
    """What is frozen under adapters is no part of a checkpoint: the same for every seed."""
    adapters = way == "adapters"
    model = toy_model(0 if adapters else seed)
    choose_trainable(model, None, DROPPING if adapters else None, seed, "toy")
    if side == "torch":
        return TorchTrainer(model, OPTIMIZER, STEPS)
    _, stage, *offload = side.split()
    engine = zero_engine(
        int(stage),
        precision="bf16" if way == "bf16" else "fp32",
        offload=offload[0] if offload else "none",
    )
    return engine.trainer(model, OPTIMIZER, STEPS)


def take_steps(trainer: Trainer, first: int, last: int) -> None:
    for step in range(first, last):
        whole = isinstance(trainer, TorchTrainer)
        batches = STEP_BATCHES[step] if whole else share_of(zero_engine(1), step)
        take_step(trainer, batches)


def save(trainer: Trainer, directory: Path) -> None:
    """Plain torch is one process, though the check has many."""
    if is_main() or not isinstance(trainer, TorchTrainer):
        trainer.save(directory)
    barrier()


def contents(way: str, directory: Path) -> dict[str, Tensor]:
    """All that a checkpoint has, each parameter whole."""
    trainer = new_trainer(way, "torch", seed=7)
    assert isinstance(trainer, TorchTrainer)
    trainer.load(directory)
    found = {"steps": torch.tensor(trainer.steps)}
    for shard in trainer._shards():
        state = trainer._optimizer.state[shard.master]
        found |= {f"{key} of {shard.name}": value for key, value in state.items()}
        found[f"weights of {shard.name}"] = shard.master.detach().clone()
    return found


def write(folder: Path, sides: Sides) -> None:
    """Let each side write a checkpoint, and its end."""
    for way, names in sides.items():
        for side in names:
            trainer = new_trainer(way, side, seed=0)
            take_steps(trainer, 0, BEFORE)
            save(trainer, folder / way / side)
            take_steps(trainer, BEFORE, STEPS)
            save(trainer, folder / way / f"{side} end")


def go_on(folder: Path, sides: Sides) -> dict[str, dict[str, float | bool]]:
    """Let each side go on from what each has written, from another start; gives what came of it."""
    found: dict[str, dict[str, float | bool]] = {}
    place = folder / f"on {dist.get_world_size()}"
    for way, names in sides.items():
        for writer in names:
            written = contents(way, folder / way / writer)
            end = contents(way, folder / way / f"{writer} end")
            for reader in names:
                name = f"{way}: {writer}, then {reader}"
                trainer = new_trainer(way, reader, seed=5)
                trainer.load(folder / way / writer)
                save(trainer, place / name)
                again = contents(way, place / name)
                take_steps(trainer, BEFORE, STEPS)
                save(trainer, place / f"{name} end")
                ended = contents(way, place / f"{name} end")
                off = max(float((ended[key] - end[key]).abs().max()) for key in end)
                found[name] = {"same": same(written, again), "off": off}
    return found


def main(folder: Path, ways: Sequence[str]) -> None:
    zero_engine(1)
    sides = {way: SIDES[way] for way in ways}
    first = not (folder / ways[0]).exists()
    barrier()
    if first:
        write(folder, sides)
    findings = go_on(folder, sides)
    if is_main():
        output = folder / f"on {dist.get_world_size()}.json"
        output.write_text(json.dumps(findings, indent=1), encoding="utf-8")
    barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
