"""Supervised fine-tuning and reward models beside TRL's trainers: `python -m tests.benchmarks.supervised`.

Both get the same random model of SmolLM2-135M's shape and the same rows: prompts of 20 to 80 tokens, answers of
20 to 90, in whose tokens alone SFT learns. All weights learn. Each row of the table is a process of its own.
"""

import argparse
import importlib.metadata
import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.alone import alone, clock, peak

PROMPT, ANSWER = (20, 80), (20, 90)
# rows of a step: dialogues, or pairs
DIALOGUES, PAIRS = 8, 4
SPLITS = {"train": 96, "gold": 2, "validation": 2, "test": 2}
WARM_UP = 1


@dataclass(frozen=True)
class Task:
    """What one row is measured with."""

    stage: str
    folder: Path
    steps: int
    precision: str
    blocks: int


# -- rows ------------------------------------------------------------------------------------------


def dialogues_of(count: int) -> list[tuple[list[int], list[int]]]:
    """Prompts and answers of random words."""
    from tests.benchmarks.made_up import random_prompts

    return list(
        zip(random_prompts(count, *PROMPT), random_prompts(count, *ANSWER, seed=4), strict=True)
    )


def pairs_of(count: int) -> list[tuple[list[int], list[int], list[int]]]:
    """Prompts with two answers each."""
    from tests.benchmarks.made_up import random_prompts

    rejected = random_prompts(count, *ANSWER, seed=5)
    return [
        (*dialogue, answer) for dialogue, answer in zip(dialogues_of(count), rejected, strict=True)
    ]


# -- ours ------------------------------------------------------------------------------------------


def ours(task: Task) -> tuple[float, float]:
    """Rows a second, and the peak in GiB, of the stage's own steps."""
    from rlhf.core.tally import Tally
    from rlhf.settings import load_settings
    from rlhf.training.reward import RewardTraining
    from rlhf.training.run import begin
    from rlhf.training.sft import FineTuning

    workspace = workspace_of(task)
    settings = load_settings(workspace.params)
    run = begin(task.stage, settings, workspace, [task.stage, "data"], {})
    learning = FineTuning(run) if task.stage == "sft" else RewardTraining(run, "reward")
    rows, seconds = 0, 0.0
    for number, batch in enumerate(learning.plan[: WARM_UP + task.steps]):
        began = clock()
        learning.trainer.step(learning.losses(batch, Tally()))
        if number >= WARM_UP:
            rows, seconds = rows + len(batch), seconds + clock() - began
    return rows / seconds, peak()


def workspace_of(task: Task) -> Any:
    """The model as `base` and `sft`, and the two tables."""
    from rlhf.common.files import write_text
    from rlhf.settings import preset_text
    from rlhf.settings.edit import edited
    from rlhf.workspace import Workspace
    from tests.benchmarks.made_up import write_rows

    workspace = Workspace(task.folder / "ours")
    for name in ("base", "sft"):
        workspace.model(name).parent.mkdir(parents=True, exist_ok=True)
        workspace.model(name).symlink_to(task.folder / "model")
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    write_rows(workspace, splits, dialogues_of(len(splits)), pairs_of(len(splits)))
    # as many tokens as TRL's rows have on average
    tokens = DIALOGUES * (sum(PROMPT) + sum(ANSWER)) // 2
    changes = {
        "engine.precision": task.precision,
        "sft.batch_tokens": tokens,
        "sft.trainable_layers": None,
        "reward.batch_tokens": tokens,
        "reward.trainable_layers": None,
        # TRL has no such term
        "reward.lm_coefficient": 0.0,
    }
    write_text(workspace.params, edited(preset_text("laptop"), changes, "preset laptop"))
    return workspace


# -- TRL -------------------------------------------------------------------------------------------


def theirs(task: Task) -> tuple[float, float]:
    """The same by TRL's SFTTrainer or RewardTrainer, at their defaults but for the batch."""
    import trl
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from tests.benchmarks.made_up import word_tokenizer

    shared: dict[str, Any] = {
        "output_dir": str(task.folder / "trl"),
        "max_steps": WARM_UP + task.steps,
        "per_device_train_batch_size": DIALOGUES if task.stage == "sft" else PAIRS,
        "gradient_checkpointing": False,
        "bf16": task.precision == "bf16",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    path = task.folder / "model"
    made: Any
    if task.stage == "sft":
        rows = [
            {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}
            for prompt, answer in dialogues_of(SPLITS["train"])
        ]
        made, settings = trl.SFTTrainer, trl.SFTConfig(**shared)
        model = AutoModelForCausalLM.from_pretrained(path)
    else:
        rows = [
            {"chosen_ids": prompt + chosen, "rejected_ids": prompt + rejected}
            for prompt, chosen, rejected in pairs_of(SPLITS["train"])
        ]
        made, settings = trl.RewardTrainer, trl.RewardConfig(**shared)
        model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    trainer = made(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=word_tokenizer(),
    )
    ends = times_of_steps(trainer)
    trainer.train()
    rows_each = settings.per_device_train_batch_size
    return rows_each * task.steps / (ends[-1] - ends[WARM_UP - 1]), peak()


def times_of_steps(trainer: Any) -> list[float]:
    """Where the ends of the trainer's steps will be noted."""
    from transformers import TrainerCallback

    ends: list[float] = []

    class Noting(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(clock())

    trainer.add_callback(Noting())
    return ends


# -- how -------------------------------------------------------------------------------------------

TRAINERS: dict[str, Callable[[Task], tuple[float, float]]] = {"ours": ours, "TRL": theirs}


def write_model(task: Task) -> None:
    """The model that all rows begin with."""
    from tests.benchmarks.made_up import random_model, word_tokenizer

    random_model(task.blocks, seed=1).save_pretrained(task.folder / "model")
    word_tokenizer().save_pretrained(task.folder / "model")


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.supervised", description=__doc__
    )
    parser.add_argument("--steps", type=int, default=8, help="measured ones, after a first")
    parser.add_argument("--blocks", type=int, default=30, help="fewer, on a slow machine")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "trl"))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {versions}; "
        f"{options.precision}, {options.blocks} blocks, {options.steps} steps"
    )
    print("| stage | trainer | dialogues or pairs a second | peak, GiB |")
    print("|---|---|---|---|")
    for stage in ("sft", "reward"):
        for name, measure in TRAINERS.items():
            with tempfile.TemporaryDirectory() as directory:
                task = Task(
                    stage, Path(directory), options.steps, options.precision, options.blocks
                )
                alone(write_model, task)
                rate, gib = alone(measure, task)
            print(f"| {stage} | {name} | {rate:.2f} | {gib:.1f} |", flush=True)


if __name__ == "__main__":
    main()
