"""Run by test_zero_offload.py under torchrun: ZeRO with parts of what learns in host memory, beside ZeRO without.

Rank 0 writes the findings as JSON.
"""

import json
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import exchange
from torch import Tensor
from toy import toy_model
from toy_steps import (
    COUNT,
    LORA,
    OPTIMIZER,
    STEPS,
    gathered_weights,
    share_of,
    take_step,
    zero_engine,
)
from zero_checks import parity, refuses

from rlhf.batches.padding import TokenBatch
from rlhf.engine.processes import barrier
from rlhf.models.trainable import choose_trainable

# ZeRO's stage, and what is on the host
WAYS: Mapping[str, tuple[int, str]] = {
    "stage 1": (1, "optimizer"),
    "stage 2": (2, "optimizer"),
    "stage 3": (3, "optimizer"),
    "stage 3, weights": (3, "optimizer-and-parameters"),
}
# those who go on from each other
SIDES: exchange.Sides = {
    "fp32": ("torch", "stage 2 optimizer", "stage 3 optimizer-and-parameters"),
    "bf16": ("stage 2", "stage 2 optimizer"),
}


def beside_none(stage: int, offload: str, precision: str, lora: bool = False) -> dict[str, float]:
    """How far losses, norms and weights are from those of the same ZeRO without offload.

    The third step reaches the embeddings alone.
    """
    found = []
    for where in ("none", offload):
        engine = zero_engine(stage, offload=where, precision=precision)
        model = toy_model()
        choose_trainable(model, None, LORA if lora else None, 1, "toy")
        trainer = engine.trainer(model, OPTIMIZER, STEPS)
        numbers = []
        for step in range(STEPS):
            if step == 2 and not lora:
                losses = [partial(_of_embeddings, model, batch) for batch in share_of(engine, step)]
                numbers.append((0.0, trainer.step(losses)))
            else:
                numbers.append(take_step(trainer, share_of(engine, step)))
        found.append((numbers, gathered_weights(trainer)))
    (numbers, weights), (others, other_weights) = found
    pairs = [
        (one, other)
        for left, right in zip(numbers, others, strict=True)
        for one, other in zip(left, right, strict=True)
    ]
    differences = [weights[name] - other_weights[name] for name in weights]
    return {
        "numbers": max(abs(one - other) for one, other in pairs),
        "weights": max(float(difference.abs().max()) for difference in differences),
    }


def _of_embeddings(model: Any, batch: TokenBatch) -> Tensor:
    states: Tensor = model.get_input_embeddings()(batch.input_ids)
    return states.square().sum() / COUNT


def main(output: Path) -> None:
    findings: dict[str, Any] = {}
    for name, (stage, offload) in WAYS.items():
        engine = zero_engine(stage, offload=offload)
        findings[name] = {
            "parity": parity(engine),
            "bad_gradient": refuses(engine, "gradient"),
            "bf16": beside_none(stage, offload, "bf16"),
        }
    findings["stage 2"]["fp32"] = beside_none(2, "optimizer", "fp32")
    findings["stage 2"]["adapters"] = beside_none(2, "optimizer", "fp32", lora=True)
    exchange.write(output.parent / "exchange", SIDES)
    findings["exchange"] = exchange.go_on(output.parent / "exchange", SIDES)
    if engine.rank == 0:
        output.write_text(json.dumps(findings, indent=1), encoding="utf-8")
    barrier()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
