"""The policy loop: gather, turn into experience, learn. It knows no algorithm by name."""

import json
from collections.abc import Mapping
from time import monotonic
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.algorithms import Algorithm, Context, Learnable, Material, make_algorithm
from rlhf.common.files import staged_directory, write_json
from rlhf.common.metrics import Value, write_summary
from rlhf.common.progress import Progress
from rlhf.common.seeds import generator
from rlhf.common.steps import StepLog, ends, read_steps, write_plot_data
from rlhf.common.tally import Tally
from rlhf.data.batches import TokenBatch, pad
from rlhf.data.tables import read_rows_of
from rlhf.engine import NonFiniteError
from rlhf.models.causal import load_tokenizer, save_causal_lm
from rlhf.monitor import collapsed
from rlhf.rollout.actor import Actor, PromptStream
from rlhf.rollout.records import PromptBatch, Rollout
from rlhf.rollout.sampler import SamplingRule
from rlhf.settings import Settings
from rlhf.stage import StageRun, begin
from rlhf.workspace import Workspace


def train(settings: Settings, workspace: Workspace) -> None:
    """Improve the policy on the `prompts` table; writes models/policy and metrics/ppo*.json(l)."""
    tables = {name: workspace.prepared / f"{name}.parquet" for name in ("prompts", "pretrain")}
    models = {name: workspace.model(name) for name in ("sft", "reward", settings.ppo.initial)}
    run = begin("ppo", settings, workspace, ["ppo", "data"], {**tables, **models})
    Loop(run).train()


SHOWN = ("reward", "kl", "response_length")  # beside the progress bar


class Loop:
    """State of one policy run: the algorithm, the sampler, the prompts and the logs."""

    def __init__(self, run: StageRun) -> None:
        settings, workspace, engine = run.settings, run.workspace, run.engine
        self.run, self.engine, self.section = run, engine, settings.ppo
        self.tokenizer = load_tokenizer(workspace.model("sft"))
        self.algorithm: Algorithm[Any] = make_algorithm(Context(settings, workspace, engine))
        rule = SamplingRule(
            max_new_tokens=self.section.max_response_tokens or settings.data.max_response_tokens,
            eos_id=int(self.tokenizer.eos_token_id),
            pad_id=int(self.tokenizer.pad_token_id),
            temperature=self.section.sampling.temperature,
        )
        self.actor = Actor(self.algorithm.policy(), engine, settings.engine.precision, rule, settings.seed)
        self.prompts = self._stream("train")
        self.validation = self._stream("validation")
        self.pretrain = read_rows_of(workspace, "pretrain", "train") if self._uses_pretrain() else None

    def train(self) -> None:
        """Run all iterations, from the last checkpoint on if there is one, and write the outputs."""
        run, section = self.run, self.section
        warmup = self.algorithm.warmup_iterations
        resumed = run.resume(self.algorithm.trainers)
        if resumed is not None:
            self.algorithm.load_state(resumed.loop["algorithm"])
        start = -warmup if resumed is None else resumed.step
        log = run.open_log(run.workspace.steps("ppo"), resumed)
        samples = run.open_log(run.workspace.samples("ppo"), resumed)
        progress = Progress("ppo", section.iterations + warmup, start=start + warmup, show=run.is_main)
        try:
            for iteration in range(start, section.iterations):
                # 1. gather: prompts, responses, plain text
                material, gather_seconds = self._gather(iteration + warmup)
                # 2. experience: scores, token rewards, advantages
                began = monotonic()
                experience, metrics = self.algorithm.experience(material)
                score_seconds = monotonic() - began
                # 3. look, before learning like all else in this row: fixed prompts, samples
                if iteration >= 0 and iteration % section.samples_every == 0:
                    metrics |= self._look(iteration, samples)
                # 4. learn
                began = monotonic()
                metrics |= self._learn(iteration, experience)
                update_seconds = monotonic() - began
                # 5. log and keep
                metrics |= self._speed(material, gather_seconds, update_seconds) | {"score_seconds": score_seconds}
                if log is not None:
                    log.write(iteration, metrics)
                progress.advance(1, {key: float(metrics.get(key) or 0.0) for key in SHOWN})
                if (iteration + 1) % section.checkpoint_every == 0 and iteration + 1 < section.iterations:
                    run.keep(
                        iteration + 1, self.algorithm.trainers, {"algorithm": self.algorithm.state()}, [log, samples]
                    )
            final = self._look(section.iterations, samples)
            if log is not None:
                log.write(section.iterations, final)
        finally:
            progress.close()
            for stream in (log, samples):
                if stream is not None:
                    stream.close()
        self._finish()

    # -- the steps ------------------------------------------------------------------------------------------------

    def _gather(self, index: int) -> tuple[Material, float]:
        """What the algorithm says that it consumes, and how long it took."""
        began = monotonic()
        rollout = self._rollout(index) if "rollouts" in self.algorithm.consumes else None
        return Material(rollout), monotonic() - began

    def _rollout(self, index: int) -> Rollout:
        prompts = self.prompts.take(
            index, self.section.rollouts, self.section.mini_batch, self.engine.rank, self.engine.world_size
        )
        with self.algorithm.trainers["policy"].gathered():
            self.actor.refresh()
            return self.actor.rollout(prompts, "rollout", index)

    def _speed(self, material: Material, gather_seconds: float, update_seconds: float) -> dict[str, Value]:
        speed: dict[str, Value] = {"rollout_seconds": gather_seconds, "update_seconds": update_seconds}
        if material.rollout is not None:
            tokens = float(self.engine.all_sum(material.rollout.response_mask.sum().double()))
            speed["tokens"] = tokens
            speed["rollout_tokens_per_second"] = tokens / gather_seconds
            speed["update_tokens_per_second"] = tokens / update_seconds
        return speed

    def _learn(self, iteration: int, experience: Learnable) -> dict[str, Value]:
        """Learn epoch after epoch from the buffer, each in a new order of its mini-batches; their composition stays."""
        tally = Tally()
        metrics: dict[str, Value] = {}
        size, seed = self.section.mini_batch // self.engine.world_size, self.run.settings.seed
        batches = [
            experience.select(rows) for rows in torch.arange(len(experience), device=self.engine.device).split(size)
        ]
        for name, epochs in self.algorithm.active(iteration).items():
            trainer = self.algorithm.trainers[name]
            metrics[f"{name}_learning_rate"] = trainer.learning_rate()
            norms = []
            for epoch in range(epochs):
                order = torch.randperm(
                    len(batches), generator=generator(seed, "order", iteration, name, epoch)
                ).tolist()
                for position, batch in enumerate(batches[index] for index in order):
                    update = (iteration * epochs + epoch) * len(batches) + position
                    own = Tally()
                    plain = self._plain_text(update) if name == "policy" else None
                    losses = self.algorithm.losses(name, iteration, batch, plain, own)
                    try:
                        norms.append(trainer.step(losses))
                    except NonFiniteError as error:
                        raise self.run.stop_on_bad_step(iteration, error, _evidence(name, batch, plain)) from error
                    if len(norms) == 1 and "ratio_max_deviation" in own.peaks:
                        tally.peak(first_ratio_deviation=own.peaks["ratio_max_deviation"])
                    tally.absorb(own)
            metrics[f"{name}_gradient_norm"] = sum(norms) / len(norms)
        for peaks in self.engine.all_gather([dict(tally.peaks)]):
            tally.peak(**peaks)
        means = tally.means(self.engine.all_sum)
        return {**metrics, **means, **self.algorithm.learnt(means)}

    def _plain_text(self, update: int) -> TokenBatch | None:
        """The windows of one mini-batch: each process takes its own."""
        ptx = self.section.ptx
        if self.pretrain is None or ptx is None or update < 0:
            return None
        start = (update * self.engine.world_size + self.engine.rank) * ptx.windows
        rows = [(start + offset) % len(self.pretrain) for offset in range(ptx.windows)]
        windows = [[int(token) for token in self.pretrain["input_ids"].iloc[row]] for row in rows]
        pad_id = int(self.tokenizer.pad_token_id)
        return pad(windows, [[True] * len(window) for window in windows], pad_id).to(self.engine.device)

    def _look(self, iteration: int, samples: StepLog | None) -> dict[str, Value]:
        """Answer the fixed validation prompts with fixed random numbers, so that only the policy differs over time."""
        prompts = self.validation.first(self.section.validation_prompts, self.engine.rank, self.engine.world_size)
        with self.algorithm.trainers["policy"].gathered():
            self.actor.refresh()
            rollout = self.actor.rollout(prompts, "validation")
        rewards = self.algorithm.score(rollout)
        tally = Tally()
        tally.add(validation_reward=rewards)
        everyone = self.engine.all_gather(_sample_rows(prompts, rollout, rewards, self.tokenizer))
        if samples is not None:
            for row in everyone[: self.section.validation_prompts]:
                samples.write(iteration, row)
        return {**tally.means(self.engine.all_sum)}

    # -- the end -------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        run, workspace = self.run, self.run.workspace
        with self.algorithm.trainers["policy"].gathered():
            if run.is_main:
                with staged_directory(workspace.model("policy")) as directory:
                    save_causal_lm(self.algorithm.policy(), self.tokenizer, directory)
        if run.is_main:
            rows = [row for row in read_steps(workspace.steps("ppo")) if row["step"] >= 0]
            write_json(
                workspace.details("ppo"), {"reward_histograms": _histograms(read_steps(workspace.samples("ppo")))}
            )
            write_plot_data(workspace.steps("ppo"), workspace.plot_data("ppo"))
            write_summary(workspace.metrics("ppo"), _summary(rows, run.seconds))
            run.checkpoints.finish()

    # -- helpers --------------------------------------------------------------------------------------------------------

    def _stream(self, split: str) -> PromptStream:
        table = read_rows_of(self.run.workspace, "prompts", split)
        return PromptStream(table, [_transcript(text) for text in table["messages"]], self.run.settings.seed)

    def _uses_pretrain(self) -> bool:
        return self.section.ptx is not None and "pretrain" in self.algorithm.consumes


def _evidence(name: str, batch: Learnable, plain: TokenBatch | None) -> dict[str, Any]:
    return {
        "trainer": name,
        "plain_text": None if plain is None else plain.input_ids.tolist(),
        **batch.evidence(),
    }


def _transcript(messages: str) -> str:
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in json.loads(messages))


def _sample_rows(
    prompts: PromptBatch, rollout: Rollout, rewards: Tensor, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Value]]:
    return [
        {
            "kind": kind,
            "prompt": text,
            "response": str(tokenizer.decode(response, skip_special_tokens=True)).strip(),
            "reward": reward,
            "length": len(response),
        }
        for kind, text, response, reward in zip(
            prompts.kinds, prompts.texts, rollout.responses, rewards.tolist(), strict=True
        )
    ]


def _histograms(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rewards of the fixed validation prompts at each look, over common edges (fig. 13)."""
    rewards = pd.Series([row["reward"] for row in samples], dtype="float64")
    low, high = float(rewards.min()), float(rewards.max())
    edges = [low + (high - low + 1e-6) * index / 20 for index in range(21)]
    steps = sorted({row["step"] for row in samples})
    table = []
    for step in steps:
        values = pd.Series([row["reward"] for row in samples if row["step"] == step])
        counts = pd.cut(values, edges, include_lowest=True).value_counts(sort=False)
        table.append({"step": step, "edges": edges, "counts": [int(count) for count in counts]})
    return table


def _peak(rows: list[dict[str, Any]], key: str) -> dict[str, Value]:
    values = [row[key] for row in rows if key in row]
    return {f"{key}_max": max(values)} if values else {}


def _summary(rows: list[dict[str, Any]], seconds: float) -> Mapping[str, Value]:
    """First and last mean over a tenth of the iterations, at least one."""
    summary: dict[str, Value] = {}
    looks = [row["validation_reward"] for row in rows if "validation_reward" in row]
    rows = [row for row in rows if "reward" in row]  # the last look has a row of its own
    for key in (
        "reward",
        "kl",
        "perplexity",
        "response_length",
        "entropy",
        "finished",
        "explained_variance",
        "value_loss",
    ):
        filled = [row for row in rows if key in row]
        if filled:
            summary[f"{key}_first"], summary[f"{key}_last"] = ends(filled, key)
    rollout, update = sum(row["rollout_seconds"] for row in rows), sum(row["update_seconds"] for row in rows)
    tokens = sum(row["tokens"] for row in rows)
    return {
        **summary,
        "validation_reward_first": looks[0],
        "validation_reward_last": looks[-1],
        **_peak(rows, "first_ratio_deviation"),
        "collapsed": collapsed(rows),
        "iterations": len(rows),
        "seconds": seconds,
        "rollout_tokens_per_second": tokens / rollout,
        "update_tokens_per_second": tokens / update,
    }
