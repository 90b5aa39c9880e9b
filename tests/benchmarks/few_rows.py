"""A decoding step on this CPU, linear layers as torch has them and weights first (`rlhf/rollout/few_rows.py`).

`python -m tests.benchmarks.few_rows`: random weights of SmolLM2-135M's shape, float32, 40 tokens
before; the quickest of eight steps each, in turns.
"""

from contextlib import nullcontext

import torch
from transformers import PreTrainedModel

from rlhf.models.backbone import next_token_states, unembed
from rlhf.rollout.cache import read_prompts
from rlhf.rollout.few_rows import few_rows
from tests.benchmarks.alone import clock
from tests.benchmarks.made_up import BLOCKS, random_model

ROWS = (2, 4, 8, 16, 32)
STEPS = 8
BEFORE = 40


@torch.no_grad()
def main() -> None:
    model = random_model(BLOCKS, seed=1)
    print(f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads")
    print("| rows | ms a step | weights first | times faster |\n|---|---|---|---|")
    for rows in ROWS:
        as_is, weights_first = milliseconds(model, rows)
        print(f"| {rows} | {as_is:.0f} | {weights_first:.0f} | {as_is / weights_first:.2f} |")


def milliseconds(model: PreTrainedModel, rows: int) -> tuple[float, float]:
    """Of a step, as torch has it and weights first."""
    ids = torch.randint(100, 40_000, (rows, BEFORE))
    mask = torch.ones_like(ids, dtype=torch.bool)
    # rows of two lengths, as prompts are
    mask[::2, : BEFORE // 2] = False
    _, cache = read_prompts(model, ids, mask, 2 * STEPS)

    seconds: tuple[list[float], list[float]] = ([], [])
    for step in range(2 * STEPS):
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        begin = clock()
        with few_rows(model) if step % 2 else nullcontext():
            unembed(model, next_token_states(model, ids[:, :1], mask, cache))
        seconds[step % 2].append(clock() - begin)
    as_is, weights_first = seconds
    return 1000 * min(as_is), 1000 * min(weights_first)


if __name__ == "__main__":
    main()
