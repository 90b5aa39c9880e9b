"""The state of a trainer on disk, in a form that knows neither the engine nor the number of processes.

Each process writes the shards that it keeps of the float32 weights and of Adam's moments, by parameter
and place. Whoever resumes reads what its own shards need, from whatever files have it. So ZeRO of
any stage and number of processes and plain torch go on from each other's checkpoints, and no process
holds more than its own part.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.optim import Optimizer

from rlhf.common.errors import TrainingError
from rlhf.common.files import read_json, write_json

_WEIGHTS = "weights"
# of AdamW
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Shard:
    """A part of a parameter whose float32 weights and moments this process keeps.

    name: of the parameter; start: the part's first element, counted in the flat parameter
    master: what the optimiser steps, a parameter or many in one; place: where in it, flat, the part is
    """

    name: str
    start: int
    master: Tensor
    place: slice

    def of(self, value: Tensor) -> Tensor:
        """The part, flat, of the master weights or of a moment of them; it shares their memory."""
        return value.detach().view(-1)[self.place]


def save_trainer_state(
    directory: Path, rank: int, steps: int, shards: Sequence[Shard], optimizer: Optimizer
) -> None:
    """Write the shards of process `rank`, and how many steps were taken; every process calls it."""
    directory.mkdir(parents=True, exist_ok=True)
    # one kind after the other: the copies in host memory are a third as large
    for kind in (_WEIGHTS, *_MOMENTS):
        parts: dict[str, Tensor] = {}
        for shard in shards:
            value = shard.master if kind == _WEIGHTS else _state(optimizer, shard).get(kind)
            if value is not None:
                parts[f"{shard.name}@{shard.start}"] = shard.of(value).to("cpu", copy=True)
        save_file(parts, directory / f"{kind}-{rank:05d}.safetensors")
    # Adam counts the steps of each parameter: those in which a gradient reached it
    updates = {
        shard.name: int(state["step"]) for shard in shards if (state := _state(optimizer, shard))
    }
    write_json(directory / f"steps-{rank:05d}.json", {"steps": steps, "updates": updates})


@torch.no_grad()
def load_trainer_state(directory: Path, shards: Sequence[Shard], optimizer: Optimizer) -> int:
    """Fill the shards of this process with what was saved; gives how many steps were taken.

    Raises TrainingError where a part of a parameter is not in the files.
    """
    notes = [read_json(path) for path in sorted(directory.glob("steps-*.json"))]
    updates: dict[str, int] = {name: n for note in notes for name, n in note["updates"].items()}
    _read(directory, _WEIGHTS, [(shard, shard.of(shard.master)) for shard in shards])

    # a parameter that no gradient reached has no moments
    moved = [shard for shard in shards if shard.name in updates]
    optimizer.state.clear()
    for shard in moved:
        state = optimizer.state[shard.master]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=shard.master.device)
            state.update({kind: torch.zeros_like(shard.master) for kind in _MOMENTS})
        # ZeRO has one count for all that it keeps in one
        state["step"].clamp_(min=updates[shard.name])
    for kind in _MOMENTS:
        found = [(shard, shard.of(_state(optimizer, shard)[kind])) for shard in moved]
        _read(directory, kind, found)
    steps: int = notes[0]["steps"]
    return steps


def _state(optimizer: Optimizer, shard: Shard) -> dict[str, Tensor]:
    """What the optimiser knows of a shard's master weights; nothing before their first gradient."""
    state: dict[str, Tensor] = optimizer.state.get(shard.master, {})
    return state


def _read(directory: Path, kind: str, wanted: Iterable[tuple[Shard, Tensor]]) -> None:
    """Fill each flat tensor with its shard's elements, from all files of a kind."""
    targets = {shard.name: (shard.start, target) for shard, target in wanted}
    missing = {name: target.numel() for name, (_, target) in targets.items()}
    for path in sorted(directory.glob(f"{kind}-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118
                name, _, text = key.rpartition("@")
                if name not in targets:
                    continue
                start, target = targets[name]
                stored, begin = file.get_slice(key), int(text)
                end = begin + stored.get_shape()[0]
                first, last = max(begin, start), min(end, start + target.numel())
                if first < last:
                    # no more of the file than this is read
                    part = stored[first - begin : last - begin]
                    target[first - start : last - start].copy_(part)
                    missing[name] -= last - first
    for name, count in missing.items():
        if count:
            raise TrainingError(
                f"{directory}: {count} elements of {name} are not in {kind}-*.safetensors; "
                "it is of another model: remove the checkpoint"
            )
