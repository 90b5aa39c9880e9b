"""An iteration of PPO beside TRL's: `python -m tests.benchmarks.ppo_iteration` prints a table.

Both get the same random models of SmolLM2-135M's shape, the same prompts, batches and precision, and learn for
one epoch. Each row runs in a process of its own, one after the other. `full`: all prompts and responses have
the same lengths. `mixed`: prompts of 10 to 65 tokens, and a policy that ends one response in thirty at any token.
The floor is the least arithmetic at the machine's measured speed (`floor.py`).
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.alone import alone, clock, peak
from tests.benchmarks.floor import Machine, Work, measure_machine, ppo_work

ROLLOUTS, MICRO_BATCH = 16, 8
PROMPT, RESPONSE = 64, 48
MIXED_PROMPTS = (10, 65)
# one response in so many ends at any token
ENDS = 30
TEMPERATURE = 0.7
# so small that lengths stay what they are
LEARNING_RATE = 1e-8
# the first warms caches up; TRL's last is not seen to its end
WARM_UP = 1

CASES = ("full", "mixed")
# ours beside PPO of all weights: changes of settings
WAYS: dict[str, dict[str, Any]] = {
    "ours": {},
    "ours, upper third learns": {"ppo.trainable_layers": "third"},
    "ours, LoRA": {"ppo.lora": {"rank": 16, "alpha": 32.0, "dropout": 0.0, "target_modules": None}},
}
TRL = "TRL"


@dataclass(frozen=True)
class Task:
    """What one row is measured with."""

    way: str
    case: str
    folder: Path
    iterations: int
    precision: str
    blocks: int


@dataclass(frozen=True)
class Row:
    """Medians over the iterations, in seconds; peak in GiB.

    tokens: of the responses of an iteration, without padding
    """

    sampling: float
    scoring: float
    update: float
    tokens: float
    peak: float

    @property
    def total(self) -> float:
        return self.sampling + self.scoring + self.update


# -- ours ------------------------------------------------------------------------------------------


def ours(task: Task) -> Row:
    """Iterations of the loop itself, as its step log has them."""
    from rlhf.core.steps import read_steps
    from rlhf.models.saving import load_causal_lm
    from rlhf.settings import load_settings
    from rlhf.training import loop
    from tests.benchmarks.made_up import write_workspace

    changes = settings_of(task)
    model = load_causal_lm(task.folder / task.case)
    workspace = write_workspace(task.folder / task.way, model, prompts_of(task), changes)
    del model
    loop.train(load_settings(workspace.params), workspace)
    rows = [row for row in read_steps(workspace.steps("ppo")) if "tokens" in row][WARM_UP:]
    return Row(
        *(median(rows, f"{part}_seconds") for part in ("rollout", "score", "update")),
        median(rows, "tokens"),
        peak(),
    )


def settings_of(task: Task) -> dict[str, Any]:
    """Preset laptop as TRL's defaults have it, without what TRL has not; nothing but iterations."""
    changes = {
        "seed": 1,
        "engine.precision": task.precision,
        "data.max_prompt_tokens": max(PROMPT, MIXED_PROMPTS[1]),
        "ppo.iterations": WARM_UP + task.iterations,
        "ppo.rollouts": ROLLOUTS,
        "ppo.mini_batch": ROLLOUTS,
        "ppo.micro_batch": MICRO_BATCH,
        "ppo.max_response_tokens": RESPONSE,
        "ppo.sampling.temperature": TEMPERATURE,
        "ppo.trainable_layers": None,
        "ppo.optimizer.learning_rate": LEARNING_RATE,
        "ppo.critic.optimizer.learning_rate": LEARNING_RATE,
        "ppo.ptx": None,
        "ppo.advantage": {"normalise": "mini-batch", "clip": None},
        "ppo.critic.pretraining_iterations": 0,
        "ppo.validation_prompts": 2,
        "ppo.keep": "last",
        "ppo.keep_checkpoint": False,
        **WAYS[task.way],
    }
    for key in ("ppo.samples_every", "ppo.checkpoint_every"):
        changes[key] = 2 * (WARM_UP + task.iterations)
    if changes["ppo.trainable_layers"] == "third":
        changes["ppo.trainable_layers"] = max(1, task.blocks // 3)
    return changes


def median(rows: list[dict[str, Any]], key: str) -> float:
    """Of a column of the step log."""
    return statistics.median(float(row[key]) for row in rows)


# -- TRL -------------------------------------------------------------------------------------------


def theirs(task: Task) -> Row:
    """The same iterations by TRL's PPOTrainer, which always decodes to the full length."""
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from tests.benchmarks.made_up import word_tokenizer

    trl: Any = importlib.import_module("trl.experimental.ppo.ppo_trainer")
    model = task.folder / task.case
    count = WARM_UP + task.iterations + 1
    settings = trl.PPOConfig(
        output_dir=str(task.folder / "trl"),
        bf16=task.precision == "bf16",
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        num_sample_generations=0,
        total_episodes=ROLLOUTS * count,
        per_device_train_batch_size=MICRO_BATCH,
        gradient_accumulation_steps=ROLLOUTS // MICRO_BATCH,
        local_rollout_forward_batch_size=ROLLOUTS,
        num_ppo_epochs=1,
        response_length=RESPONSE,
        stop_token="eos",
        temperature=TEMPERATURE,
        learning_rate=LEARNING_RATE,
    )
    classifiers = [
        AutoModelForSequenceClassification.from_pretrained(model, num_labels=1) for _ in range(2)
    ]
    trainer = trl.PPOTrainer(
        args=settings,
        processing_class=word_tokenizer(),
        model=AutoModelForCausalLM.from_pretrained(model),
        ref_model=AutoModelForCausalLM.from_pretrained(model),
        reward_model=classifiers[0],
        value_model=classifiers[1],
        train_dataset=[{"input_ids": prompt} for prompt in prompts_of(task)],
    )
    with watched(trl, trainer) as watch:
        trainer.train()
    return watch.row(WARM_UP)


class Watch:
    """When TRL samples, and when it begins to learn."""

    def __init__(self) -> None:
        self.began: list[float] = []
        self.sampled: list[float] = []
        self.learns: list[float] = []
        self.tokens: list[float] = []

    def row(self, warm_up: int) -> Row:
        """Medians without the first iterations, and without the last, whose end is not seen."""
        spans = [
            (sampled - began, learns - sampled, following - learns)
            for began, sampled, learns, following in zip(
                self.began, self.sampled, self.learns, self.began[1:], strict=False
            )
        ][warm_up:]
        parts = (statistics.median(part) for part in zip(*spans, strict=True))
        return Row(*parts, statistics.median(self.tokens[warm_up:-1]), peak())


@contextmanager
def watched(trl: Any, trainer: Any) -> Iterator[Watch]:
    """Note the times of the trainer's phases within the block."""
    watch = Watch()
    generate, accumulate = trl.batch_generation, trainer.accelerator.accumulate

    def watched_generate(*args: Any, **keywords: Any) -> Any:
        watch.began.append(clock())
        result = generate(*args, **keywords)
        watch.sampled.append(clock())
        responses = result[0][:, args[1].shape[1] :]
        ended = (responses == trainer.processing_class.eos_token_id).long().cumsum(dim=1)
        # tokens before the first EOS, and it
        watch.tokens.append(float((ended == 0).sum() + (ended[:, -1] > 0).sum()))
        return result

    def watched_accumulate(*models: Any) -> Any:
        if len(watch.learns) < len(watch.began):
            watch.learns.append(clock())
        return accumulate(*models)

    trl.batch_generation, trainer.accelerator.accumulate = watched_generate, watched_accumulate
    try:
        yield watch
    finally:
        trl.batch_generation, trainer.accelerator.accumulate = generate, accumulate


# -- how -------------------------------------------------------------------------------------------


def prompts_of(task: Task) -> list[list[int]]:
    """As many as all iterations take, and two that are looked at."""
    from tests.benchmarks.made_up import random_prompts

    count = ROLLOUTS * (WARM_UP + task.iterations + 1) + 2
    return random_prompts(count, *(MIXED_PROMPTS if task.case == "mixed" else (PROMPT, PROMPT)))


def write_model(task: Task) -> None:
    """The policy of a case; in a process of its own, so that no row's peak has it."""
    from tests.benchmarks.made_up import let_it_end, random_model, word_tokenizer

    model = random_model(task.blocks, seed=1)
    if task.case == "mixed":
        let_it_end(model, prompts_of(task), 1 / ENDS, TEMPERATURE)
    model.save_pretrained(task.folder / task.case)
    word_tokenizer().save_pretrained(task.folder / task.case)


def measure(task: Task) -> Row:
    """One row, in the process that this is called in."""
    return theirs(task) if task.way == TRL else ours(task)


def machine_of(precision: str) -> Machine:
    """What the floor is computed with."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return measure_machine(device, precision)


def work_of(task: Task, tokens: float) -> Work:
    """The least that an iteration of a case has to do, for so many response tokens."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(task.folder / task.case)
    lengths = [len(prompt) for prompt in prompts_of(task)]
    prompt_tokens = round(ROLLOUTS * statistics.mean(lengths))
    each = 2 if task.precision == "bf16" else 4
    return ppo_work(model, prompt_tokens, round(tokens), RESPONSE, each)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.ppo_iteration", description=__doc__
    )
    parser.add_argument("--iterations", type=int, default=3, help="measured ones, after a first")
    parser.add_argument("--blocks", type=int, default=30, help="fewer, on a slow machine")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--case", choices=CASES, help="one of them alone")
    parser.add_argument("--way", choices=[*WAYS, TRL], action="append", help="some alone")
    options = parser.parse_args()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "trl"))
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {versions}; "
        f"{options.precision}, {options.blocks} blocks, {ROLLOUTS} responses, "
        f"medians of {options.iterations} iterations"
    )
    machine: Machine = alone(machine_of, options.precision)
    print(f"measured: {machine.flops / 1e12:.3f} TFLOP/s, {machine.bandwidth / 1e9:.1f} GB/s")
    columns = "case", "trainer", "s an iteration", "sampling", "scoring", "update"
    print(f"| {' | '.join(columns)} | tokens | peak, GiB | of the floor |")
    print("|---" * 9 + "|")
    for case in [options.case] if options.case else CASES:
        with tempfile.TemporaryDirectory() as directory:
            print_rows(case, machine, Path(directory), options)


def print_rows(case: str, machine: Machine, folder: Path, options: argparse.Namespace) -> None:
    """Measure one case, a line each as it comes."""
    sizes = options.iterations, options.precision, options.blocks
    alone(write_model, Task(TRL, case, folder, *sizes))
    for way in options.way or [*WAYS, TRL]:
        task = Task(way, case, folder, *sizes)
        row: Row = alone(measure, task)
        # what learns in part has less to do
        share = ""
        if way in ("ours", TRL):
            work: Work = alone(work_of, task, row.tokens)
            share = f"{row.total / work.seconds(machine):.2f}"
        print(
            f"| {case} | {way} | {row.total:.1f} | {row.sampling:.1f} | {row.scoring:.1f} "
            f"| {row.update:.1f} | {row.tokens:.0f} | {row.peak:.1f} | {share} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
