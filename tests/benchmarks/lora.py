"""What adapters save and cost: `python -m tests.benchmarks.lora` prints peak memory and time a step.

Models are random, of the shape of the preset laptop's SmolLM2-135M, SFT and reward model with weights of
their own; batches are random tokens. Each row runs in a process of its own.
"""

import argparse
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import monotonic, process_time
from typing import Any

from tests.benchmarks.made_up import BLOCKS, SHAPE, random_model, word_tokenizer

RANK = 16
# name -> whether by adapters, and whether in the upper third of the blocks alone
WAYS: dict[str, tuple[bool, bool]] = {
    "full": (False, False),
    "lora": (True, False),
    "full, upper third": (False, True),
    "lora, upper third": (True, True),
}
# those of preset laptop: tokens of an SFT step, responses and tokens of a PPO mini-batch
SFT_ROWS, SFT_WIDTH = 6, 128
PPO_ROWS, PROMPT, RESPONSE = 8, 60, 60
NEW_TOKENS = 40

MIB = 2**20


# -- what is measured ------------------------------------------------------------------------------


def sft(folder: Path, way: str, steps: int, engine: Any) -> dict[str, float]:
    """Steps of supervised fine-tuning."""
    from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
    from rlhf.models.saving import load_causal_lm
    from rlhf.models.trainable import choose_trainable

    model = load_causal_lm(folder / "sft")
    lora, layers = settings_of(way, model.config.num_hidden_layers)
    choose_trainable(model, layers, lora, 1, "sft")
    trainer = engine.trainer(model, optimizer(), steps)
    batch = random_batch(SFT_ROWS, 1, SFT_WIDTH - 1, engine.device)

    def loss() -> Any:
        with engine.autocast():
            logits = target_logits(model, hidden_states(model, batch), batch)
        return -token_logprobs(logits, target_tokens(batch)).mean()

    weights = weights_of([model])
    return {**weights, **seconds("step", lambda: trainer.step([loss]), steps)}


def ppo(folder: Path, way: str, steps: int, engine: Any) -> dict[str, float]:
    """Mini-batches of PPO: sampled by the policy, scored by all four models, learnt by two."""
    import torch

    from rlhf.models.backbone import target_tokens, token_logprobs
    from rlhf.models.heads import load_scalar_model
    from rlhf.models.roles import Models
    from rlhf.models.saving import load_causal_lm
    from rlhf.rollout.sampler import SamplingRule, make_sampler

    policy = load_causal_lm(folder / "sft")
    lora, layers = settings_of(way, policy.config.num_hidden_layers)
    models = Models(engine, layers, lora, seed=1)
    models.train("policy", policy, optimizer(), steps)
    models.train("critic", load_scalar_model(folder / "reward"), optimizer(), steps)
    models.freeze("reference", load_causal_lm(folder / "sft"))
    models.freeze("reward", load_scalar_model(folder / "reward"))
    models.share_trunk()
    batch = random_batch(PPO_ROWS, PROMPT, RESPONSE, engine.device)
    # no token ends a response: all are of the same length
    rule = SamplingRule(max_new_tokens=NEW_TOKENS, eos_id=SHAPE["vocab_size"], pad_id=0)
    sampler = make_sampler("local", models.language_model("policy"), engine, rule)
    prompts = batch.input_ids[:, :PROMPT].tolist()

    def sample() -> None:
        sampler.refresh()
        sampler.sample(prompts, range(PPO_ROWS))

    @torch.no_grad()
    def score(on_trunk: Any) -> None:
        for role in ("policy", "reference"):
            token_logprobs(models.target_logits(role, on_trunk), target_tokens(batch))
        models.values("critic", on_trunk)
        models.scores("reward", on_trunk)

    def learn(on_trunk: Any) -> None:
        def policy() -> Any:
            logits = models.target_logits("policy", on_trunk)
            return -token_logprobs(logits, target_tokens(batch)).mean()

        models.trainers["policy"].step([policy])
        models.trainers["critic"].step([lambda: models.values("critic", on_trunk).square().mean()])

    def step() -> None:
        on_trunk = models.with_trunk_states(batch, PPO_ROWS)
        score(on_trunk)
        learn(on_trunk)

    weights = weights_of([models[role] for role in ("policy", "critic", "reference", "reward")])
    return {**weights, **seconds("step", step, steps), **seconds("sampling", sample, steps)}


STAGES: dict[str, Callable[[Path, str, int, Any], dict[str, float]]] = {"sft": sft, "ppo": ppo}


# -- how -------------------------------------------------------------------------------------------


def settings_of(way: str, blocks: int) -> tuple[Any, int | None]:
    """The section lora and the key trainable_layers."""
    from rlhf.settings.training import Lora

    adapters, upper = WAYS[way]
    lora = Lora(rank=RANK, alpha=2.0 * RANK) if adapters else None
    return lora, blocks // 3 if upper else None


def optimizer() -> Any:
    """Any will do."""
    from rlhf.settings.training import Optimizer

    return Optimizer(learning_rate=1e-5)


def random_batch(rows: int, prompt: int, response: int, device: Any) -> Any:
    """Random prompts and responses, all of the same lengths."""
    import torch

    from rlhf.batches.padding import pad_responses

    random = torch.Generator().manual_seed(1)
    ids = torch.randint(4, SHAPE["vocab_size"], (rows, prompt + response), generator=random)
    prompts, responses = ids[:, :prompt].tolist(), ids[:, prompt:].tolist()
    return pad_responses(prompts, responses, 0).to(device)


def weights_of(modules: list[Any]) -> dict[str, float]:
    """MiB of the parameters in memory, each once, and millions of those that learn."""
    values = {value.data_ptr(): value for module in modules for value in module.parameters()}
    held = sum(value.numel() * value.element_size() for value in values.values())
    learning = sum(value.numel() for value in values.values() if value.requires_grad)
    return {"weights": held / MIB, "learning": learning / 1e6}


def seconds(name: str, action: Callable[[], Any], steps: int) -> dict[str, float]:
    """Medians of some calls after a first one: by the clock, and of all cores' work.

    The latter says more on a machine that does other things too.
    """
    import torch

    clock, work = [], []
    for _ in range(steps + 1):
        began, worked = monotonic(), process_time()
        action()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        clock.append(monotonic() - began)
        work.append(process_time() - worked)
    return {name: statistics.median(clock[1:]), f"{name}_work": statistics.median(work[1:])}


def peak() -> float:
    """Peak MiB of this process: of the GPU where there is one, else of memory."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(stage: str, way: str, folder: Path, steps: int, precision: str) -> dict[str, float]:
    """One row, in the process that this is called in."""
    from rlhf.engine import make_engine
    from rlhf.settings.training import EngineSettings

    engine = make_engine(EngineSettings.model_validate({"precision": precision}))
    found = STAGES[stage](folder, way, steps, engine)
    return {**found, "peak": peak()}


def write_models(folder: Path, blocks: int) -> None:
    """Random SFT and reward models; they have no weight in common."""
    from rlhf.models.heads import new_scalar_model, save_scalar_model

    for seed, name in enumerate(("sft", "reward")):
        random_model(blocks, seed).save_pretrained(folder / name)
    reward = new_scalar_model(folder / "reward", 1, "reward")
    save_scalar_model(reward, word_tokenizer(), folder / "reward", "reward", score_std=1.0)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=STAGES, help="one of them alone")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="fewer, on a slow machine")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    arguments = parser.parse_args()
    # a row's memory and threads must not depend on the rows before
    context = multiprocessing.get_context("spawn")
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, ", end="")
    print(
        f"{arguments.precision}, {arguments.blocks} blocks, rank {RANK}, medians of {arguments.steps}"
    )
    print("Seconds are by the clock, and of work on all cores.")
    print("| stage | way | learning, millions | weights, MiB | peak, MiB | s a step | s sampling |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        with context.Pool(1) as pool:
            pool.apply(write_models, (folder, arguments.blocks))
        for stage in [arguments.stage] if arguments.stage else STAGES:
            for way in WAYS:
                task = (stage, way, folder, arguments.steps, arguments.precision)
                with context.Pool(1) as pool:
                    row = pool.apply(measure, task)
                step, sampling = (
                    f"{row[name]:.1f}, {row[f'{name}_work']:.1f}" if name in row else ""
                    for name in ("step", "sampling")
                )
                print(
                    f"| {stage} | {way} | {row['learning']:.1f} | {row['weights']:.0f} | {row['peak']:.0f} "
                    f"| {step} | {sampling} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
