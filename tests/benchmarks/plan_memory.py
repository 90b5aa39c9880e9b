"""What `rlhf plan` says beside what is measured: `python -m tests.benchmarks.plan_memory` prints a table.

Random models of SmolLM2-135M's shape, with fewer blocks, on a CPU, in fp32 where a row does not say bf16. The
stages' own code learns on rows that are as long as the settings allow, which is what a plan is for. Each row is a
process of its own; measured is its peak of resident memory, less what the interpreter had before the first model,
its libraries and the tokenizer in it. glibc gives back each block that is freed: what its heap would keep is not
the stage's.
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.plan.choices import LORA
from tests.benchmarks.alone import alone, peak

# tokens of a row, rows of a step
PROMPT, ANSWER, ROWS = 2, 126, 3
PPO_PROMPT, PPO_RESPONSE, ROLLOUTS, MICRO_BATCH = 64, 48, 8, 4
# enough rows for the steps
SPLITS = {"train": 12, "gold": 2, "validation": 3, "test": 3}
MIB, GIB = 2**20, 2**30
# bytes from which on a block is a mapping of its own
_MAPPED = "65536"

# name -> the stage, and what differs
WAYS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sft": ("sft", {}),
    "reward": ("reward", {}),
    "ppo": ("ppo", {}),
    "sft, recomputed": ("sft", {"engine.gradient_checkpointing": True}),
    "sft, upper half learns": ("sft", {"sft.trainable_layers": "half"}),
    "ppo, LoRA": ("ppo", {"ppo.lora": LORA}),
    "sft, bf16": ("sft", {"engine.precision": "bf16"}),
}


@dataclass(frozen=True)
class Task:
    """What one row is measured with."""

    name: str
    folder: Path
    blocks: int
    steps: int

    @property
    def stage(self) -> str:
        return WAYS[self.name][0]


def settings_of(task: Task) -> dict[str, Any]:
    """Preset laptop, its texts and batches as above."""
    tokens = ROWS * (PROMPT + ANSWER)
    answer = {"sft": ANSWER, "reward": ANSWER // 2, "ppo": PPO_RESPONSE}[task.stage]
    changes = {
        "engine.precision": "fp32",
        "data.max_prompt_tokens": PPO_PROMPT if task.stage == "ppo" else PROMPT,
        "data.max_response_tokens": answer,
        "ppo.max_response_tokens": PPO_RESPONSE,
        "ppo.iterations": task.steps,
        "ppo.rollouts": ROLLOUTS,
        "ppo.mini_batch": ROLLOUTS,
        "ppo.micro_batch": MICRO_BATCH,
        "ppo.trainable_layers": None,
        "ppo.ptx": None,
        "ppo.critic.pretraining_iterations": 0,
        "ppo.validation_prompts": 2,
        "ppo.keep": "last",
        "ppo.keep_checkpoint": False,
        # so small that lengths stay what they are
        "ppo.optimizer.learning_rate": 1e-8,
    }
    for section in ("sft", "reward"):
        changes[f"{section}.batch_tokens"] = changes[f"{section}.micro_batch_tokens"] = tokens
        changes[f"{section}.trainable_layers"] = None
    changes |= {
        key: task.blocks // 2 if value == "half" else value
        for key, value in WAYS[task.name][1].items()
    }
    for key in ("ppo.samples_every", "ppo.checkpoint_every"):
        changes[key] = 10 * task.steps
    return changes


def resident() -> float:
    """MiB of this process now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / MIB


def load_all_of_torch() -> None:
    """A first step, which makes torch import its compiler."""
    import torch

    weight = torch.nn.Parameter(torch.zeros(8))
    optimiser = torch.optim.AdamW([weight], fused=True)
    weight.sum().backward()
    optimiser.step()


def measured(task: Task) -> tuple[float, float]:
    """MiB before the first model, and at the peak above that."""
    import rlhf.algorithms.ppo_max
    import rlhf.models.lora  # noqa: F401
    from rlhf.core.tally import Tally
    from rlhf.models.saving import load_tokenizer
    from rlhf.settings import load_settings
    from rlhf.training import loop
    from rlhf.training.reward import RewardTraining
    from rlhf.training.run import begin
    from rlhf.training.sft import FineTuning
    from rlhf.workspace import Workspace

    workspace = Workspace(task.folder / task.name)
    settings = load_settings(workspace.params)
    load_tokenizer(workspace.model("sft"))
    load_all_of_torch()
    before = resident()
    if task.stage == "ppo":
        loop.train(settings, workspace)
    else:
        run = begin(task.stage, settings, workspace, [task.stage, "data"], {})
        task_of = FineTuning(run) if task.stage == "sft" else RewardTraining(run, "reward")
        for batch in task_of.plan[: task.steps]:
            task_of.trainer.step(task_of.losses(batch, Tally()))
    return before, peak() * GIB / MIB - before


def written_and_planned(tasks: Sequence[Task]) -> list[float]:
    """Write the workspaces of all rows, and give the MiB of each as planned."""
    for task in tasks:
        write(task)
    return [planned(task) for task in tasks]


def planned(task: Task) -> float:
    """MiB as the plan has it, without the interpreter."""
    from rlhf.common.yaml import read_yaml
    from rlhf.plan.choices import make_plan
    from rlhf.plan.machine import parse_machine
    from rlhf.plan.shapes import find_shape
    from rlhf.workspace import Workspace

    workspace = Workspace(task.folder / task.name)
    shape = find_shape("path:model", workspace, str(workspace.model("sft")))
    machine = parse_machine("cpu", 64e9)
    plan = make_plan(read_yaml(workspace.params), shape, machine, fast_bf16=False)
    (stage,) = (stage for stage in plan.stages if stage.stage == task.stage)
    return (stage.peak.total - machine.reserved) / MIB


def write(task: Task) -> None:
    """The workspace of a row."""
    from tests.benchmarks.made_up import random_model, random_prompts, write_rows, write_workspace

    count = sum(SPLITS.values())
    splits = [split for split, rows in SPLITS.items() for _ in range(rows)]
    prompts = random_prompts(ROLLOUTS + 2, PPO_PROMPT, PPO_PROMPT)
    model = random_model(task.blocks, 1)
    # no token ends a response: all are of the same length
    model.get_input_embeddings().weight.data[1] = 0.0
    workspace = write_workspace(task.folder / task.name, model, prompts, settings_of(task))
    workspace.model("base").symlink_to(workspace.model("sft"))
    # with weights of its own, as training gives it: adapters share equal ones
    random_model(task.blocks, 2).save_pretrained(workspace.model("reward"))

    def words(length: int, seed: int) -> list[list[int]]:
        return random_prompts(count, length, length, seed=seed)

    half = ANSWER // 2
    write_rows(
        workspace,
        splits,
        list(zip(words(PROMPT, 3), words(ANSWER, 4), strict=True)),
        list(zip(words(PROMPT, 3), words(half, 5), words(half, 6), strict=True)),
    )


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=WAYS, nargs="+", default=list(WAYS), help="these rows")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--blocks", type=int, default=10)
    arguments = parser.parse_args()
    # of the processes that are measured, which read it as they begin
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = _MAPPED
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, "
        f"{arguments.blocks} blocks, {arguments.steps} steps"
    )
    print("| stage | plan, MiB | measured, MiB | plan is off by | interpreter, MiB |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        tasks = [
            Task(name, Path(directory), arguments.blocks, arguments.steps)
            for name in arguments.only
        ]
        for task, plan in zip(tasks, alone(written_and_planned, tasks), strict=True):
            before, found = alone(measured, task)
            print(
                f"| {task.name} | {plan:.0f} | {found:.0f} | {plan / found - 1:+.0%} | {before:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
