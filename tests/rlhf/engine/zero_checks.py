"""Run by test_zero.py under torchrun: the checks of some of ZeRO's stages in one start.

The first argument takes the findings, as JSON, from rank 0; the stages follow.
"""

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import exchange
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from toy import copies, same, toy_batches, toy_loss, toy_model
from toy_steps import (
    COUNT,
    DROPPING,
    LORA,
    OPTIMIZER,
    STEP_BATCHES,
    STEPS,
    gathered_weights,
    share_of,
    take_step,
    zero_engine,
)

from rlhf.batches.padding import TokenBatch
from rlhf.engine.base import Loss, NonFiniteError, Trainer
from rlhf.engine.checkpoints import Checkpoints
from rlhf.engine.processes import barrier
from rlhf.engine.single import TorchTrainer
from rlhf.engine.zero import ZeroEngine
from rlhf.models.backbone import hidden_states, target_logits
from rlhf.models.roles import Models
from rlhf.models.trainable import choose_trainable
from rlhf.settings.training import Lora

# of the exchange of checkpoints, what takes seconds: test_zero.py has the rest under `long`
QUICK: exchange.Sides = {"fp32": ("torch", "stage 3")}


def parity(
    engine: ZeroEngine, layers: int | None = None, lora: Lora | None = None
) -> dict[str, Any]:
    """Largest differences from one process of plain torch on the same micro-batches."""
    plain_model, model = toy_model(), toy_model()
    for one in (plain_model, model):
        choose_trainable(one, layers, lora, 1, "toy")
    plain = TorchTrainer(plain_model, OPTIMIZER, STEPS)
    zero = engine.trainer(model, OPTIMIZER, STEPS)
    worst = {"loss": 0.0, "norm": 0.0, "outside": 0.0, "gathered": 0.0}
    for step in range(STEPS):
        loss, norm = take_step(plain, STEP_BATCHES[step])
        part, zero_norm = take_step(zero, share_of(engine, step))
        assert plain.learning_rate() == zero.learning_rate()
        total = float(engine.all_sum(torch.tensor(part, dtype=torch.float64)))
        worst["loss"] = max(worst["loss"], abs(total - loss))
        worst["norm"] = max(worst["norm"], abs(zero_norm - norm))
        with torch.no_grad():
            batch = STEP_BATCHES[0][0]
            expected = float(toy_loss(plain_model, batch, COUNT))
            # the model called directly between two steps, as evaluation does
            outside = float(toy_loss(model, batch, COUNT))
            with zero.gathered() as module:
                # here the processes need not keep in step
                for _ in range(1 + engine.rank):
                    inside = float(toy_loss(module, batch, COUNT))
        worst["outside"] = max(worst["outside"], abs(outside - expected))
        worst["gathered"] = max(worst["gathered"], abs(inside - expected))
    weights, plain_weights = gathered_weights(zero), copies(plain_model)
    differences = [weights[name] - plain_weights[name] for name in weights]
    worst["weights"] = max(float(difference.abs().max()) for difference in differences)
    return worst


def dropout(engine: ZeroEngine) -> float:
    """How far the gradient norms of steps with dropout are from those of one process."""
    plain_model, model = toy_model(), toy_model()
    for one in (plain_model, model):
        choose_trainable(one, None, DROPPING, 1, "toy")
    plain = TorchTrainer(plain_model, OPTIMIZER, STEPS)
    zero = engine.trainer(model, OPTIMIZER, STEPS)
    norms = [
        (take_step(plain, STEP_BATCHES[step])[1], take_step(zero, share_of(engine, step))[1])
        for step in range(2)
    ]
    return max(abs(one - two) for one, two in norms)


def save_trainer(trainer: Trainer, directory: Path) -> None:
    trainer.save(directory / "trainer")


def resume(engine: ZeroEngine, directory: Path, lora: Lora | None = None) -> dict[str, Any]:
    """A run resumed after step 3, from another start, against one that was not interrupted."""

    def made(seed: int) -> Trainer:
        # what is frozen is no part of a checkpoint: another start of the adapters alone
        model = toy_model(seed if lora is None else 0)
        choose_trainable(model, None, lora, seed, "toy")
        return engine.trainer(model, OPTIMIZER, STEPS)

    uninterrupted = made(0)
    checkpoints = Checkpoints(directory, "sft", "key")
    for step in range(STEPS):
        last = take_step(uninterrupted, share_of(engine, step))
        if step in (0, 2):
            checkpoints.save(step + 1, partial(save_trainer, uninterrupted))
    latest = checkpoints.latest()
    assert latest is not None
    newest, path = latest
    resumed = made(5)
    resumed.load(path / "trainer")
    for step in range(3, STEPS):
        last_resumed = take_step(resumed, share_of(engine, step))
    stored = sorted(path.name for path in checkpoints.directory.iterdir())
    barrier()
    return {
        "step": newest,
        "stored": stored,
        "same_numbers": last == last_resumed,
        "same_weights": same(gathered_weights(uninterrupted), gathered_weights(resumed)),
    }


def refuses(engine: ZeroEngine, kind: str) -> dict[str, Any]:
    """A bad loss on one process only: both must raise, and the weights stay."""
    trainer = engine.trainer(toy_model(), OPTIMIZER, STEPS)
    take_step(trainer, share_of(engine, 0))
    before = gathered_weights(trainer)

    def bad(batch: TokenBatch) -> Tensor:
        loss = toy_loss(trainer.module, batch, COUNT)
        if engine.rank == 1 and kind == "loss":
            return loss * float("nan")
        if engine.rank == 1 and kind == "gradient":
            # finite, with an infinite slope
            return loss + torch.sqrt(loss * 0)
        return loss

    parts: list[Loss] = [partial(bad, STEP_BATCHES[0][0])]
    if kind == "count" and engine.rank == 1:
        parts = parts * 2
    try:
        trainer.step(parts)
        raised = "nothing"
    except (NonFiniteError, ValueError) as error:
        raised = f"{type(error).__name__}: {error}"
    return {
        "raised": engine.all_gather([raised]),
        "unchanged": same(before, gathered_weights(trainer)),
    }


def spread(where: str, precision: str, gathers_first: bool) -> dict[str, Any]:
    """A model that is only read and kept in parts, against the same model whole."""
    engine = zero_engine(2, frozen_models=where, precision=precision)
    models = Models(engine, None)
    whole = toy_model().to(engine.dtype)
    # rotary frequencies stay in float32
    whole.base_model.rotary_emb = toy_model().base_model.rotary_emb
    # not those that a step learns from: each process has a batch of its own
    own = toy_batches(4, rows=2, seed=7)[engine.rank :: engine.world_size]
    with torch.no_grad():
        expected = [target_logits(whole, hidden_states(whole, batch), batch) for batch in own]
    models.freeze("reference", toy_model())

    def read(batch: TokenBatch) -> Tensor:
        with torch.no_grad():
            return models.target_logits("reference", batch)

    def equal() -> bool:
        return all(
            torch.equal(read(batch), wanted) for batch, wanted in zip(own, expected, strict=True)
        )

    def gathered_equal() -> bool:
        with models.gathered("reference"):
            # here the processes need not keep in step
            return all(torch.equal(read(own[0]), expected[0]) for _ in range(1 + 2 * engine.rank))

    first = gathered_equal() if gathers_first else equal()
    parts = models["reference"].named_parameters()
    held = {
        name: value.to_local() if isinstance(value, DTensor) else value for name, value in parts
    }
    sizes = {name: value.numel() for name, value in held.items()}
    return {
        "equal": engine.all_gather([first and equal() and gathered_equal() and equal()]),
        "embeddings": sizes["model.embed_tokens.weight"],
        "block": sum(size for name, size in sizes.items() if ".layers.0." in name),
        "whole_block": sum(value.numel() for value in whole.base_model.layers[0].parameters()),
        "dtypes": sorted({str(value.dtype) for value in held.values()}),
    }


def main(output: Path, stages: Sequence[int]) -> None:
    findings: dict[str, Any] = {}
    for stage in stages:
        check_stage(stage, output.parent, findings)
    if 3 in stages:
        check_stage_3(output.parent, findings)
    # neither takes a number from the stage
    engine = zero_engine(stages[-1])
    findings["gather"] = engine.all_gather([("rank", engine.rank)] * (1 + engine.rank))
    findings["sum"] = engine.all_sum(torch.tensor([1.0, float(engine.rank)])).tolist()
    if engine.rank == 0:
        output.write_text(json.dumps(findings, indent=1), encoding="utf-8")
    barrier()


def check_stage(stage: int, folder: Path, findings: dict[str, Any]) -> None:
    engine = zero_engine(stage)
    findings[f"stage {stage}"] = {
        "parity": parity(engine),
        "resume": resume(engine, folder / f"fp32-{stage}"),
        "bad_loss": refuses(engine, "loss"),
        "bad_gradient": refuses(engine, "gradient"),
    }
    findings[f"adapters stage {stage}"] = {
        "parity": parity(engine, lora=LORA),
        "dropout": dropout(engine),
        "resume": resume(engine, folder / f"adapters-{stage}", DROPPING),
    }
    # 1 has an optimiser of its own in bf16; 2 and 3 share the way of accumulating
    if stage != 2:
        bf16 = zero_engine(stage, precision="bf16")
        findings[f"bf16 stage {stage}"] = {
            "resume": resume(bf16, folder / f"bf16-{stage}"),
            "bad_gradient": refuses(bf16, "gradient"),
        }


def check_stage_3(folder: Path, findings: dict[str, Any]) -> None:
    """What needs no other stage."""
    bf16 = zero_engine(3, precision="bf16")
    findings["adapters bf16 stage 3"] = {"resume": resume(bf16, folder / "adapters-bf16", LORA)}
    findings["bad_count"] = refuses(zero_engine(3), "count")
    recompute = zero_engine(3, gradient_checkpointing=True)
    findings["recompute stage 3"] = {"parity": parity(recompute, 1)}
    findings["spread"] = spread("sharded", "fp32", gathers_first=False)
    findings["spread bf16"] = spread("sharded", "bf16", gathers_first=True)
    findings["spread host"] = spread("host", "fp32", gathers_first=False)
    exchange.write(folder / "exchange", QUICK)
    findings["exchange"] = exchange.go_on(folder / "exchange", QUICK)


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(stage) for stage in sys.argv[2:]])
