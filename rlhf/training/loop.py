"""The policy loop: gather, turn into experience, learn. It knows no algorithm by name."""

import logging
from collections.abc import Mapping
from time import monotonic
from typing import Any

import torch

from rlhf.algorithms import Algorithm, Context, Learnable, Material, make_algorithm
from rlhf.batches.padding import TokenBatch, pad
from rlhf.batches.tables import read_rows_of, table_path
from rlhf.common.errors import DataError
from rlhf.common.files import write_json
from rlhf.common.memory import release
from rlhf.common.metrics import Value, write_summary
from rlhf.common.progress import Progress
from rlhf.core.seeds import generator
from rlhf.core.steps import ends, read_steps, write_plot_data
from rlhf.core.tally import Tally
from rlhf.engine import NonFiniteError
from rlhf.models.saving import load_tokenizer
from rlhf.rollout.actor import Actor, PromptStream
from rlhf.rollout.records import Rollout
from rlhf.rollout.sampler import SamplingRule
from rlhf.settings import Settings
from rlhf.settings.advice import advice
from rlhf.training.monitor import Watch
from rlhf.training.run import StageRun, begin
from rlhf.training.validation import Looks, reward_histograms, transcript
from rlhf.workspace import Workspace

log = logging.getLogger("rlhf")


def train(settings: Settings, workspace: Workspace) -> None:
    """Improve the policy on the `prompts` table; writes models/policy and metrics/ppo*.json(l)."""
    tables = {name: workspace.prepared / f"{name}.parquet" for name in ("prompts", "pretrain")}
    models = {name: workspace.model(name) for name in ("sft", "reward", settings.ppo.initial)}
    run = begin("ppo", settings, workspace, ["ppo", "data"], {**tables, **models})
    for sentence in advice(settings.ppo) if run.is_main else ():
        log.warning("%s", sentence)
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
        self.actor = Actor(self.algorithm.policy(), engine, rule, settings.seed)
        self.prompts = self._stream("train")
        validation = self._stream("validation").first(
            self.section.validation_prompts, engine.rank, engine.world_size
        )
        if not validation.ids:
            raise DataError(
                table_path(workspace, "prompts"),
                "fewer rows of split validation than engine.processes",
            )
        self.looks = Looks(run, self.algorithm, self.actor, self.tokenizer, validation)
        self.watch = Watch(self.section.alarm.patience)
        self.pretrain = (
            read_rows_of(workspace, "pretrain", "train") if self._uses_pretrain() else None
        )

    def train(self) -> None:
        """Run all iterations, from the last checkpoint on if there is one, and write the outputs."""
        run, section = self.run, self.section
        warmup = self.algorithm.warmup_iterations
        resumed = run.resume(self.algorithm.trainers)
        if resumed is not None:
            self._load_state(resumed.loop)
        start = -warmup if resumed is None else resumed.step
        steps = run.open_log(run.workspace.steps("ppo"), resumed)
        samples = run.open_log(run.workspace.samples("ppo"), resumed)
        progress = Progress(
            "ppo", section.iterations + warmup, start=start + warmup, show=run.is_main
        )
        last = section.iterations
        try:
            for iteration in range(start, section.iterations):
                # 1. gather: prompts, responses, plain text
                material, gather_seconds = self._gather(iteration + warmup)
                # 2. experience: scores, token rewards, advantages
                began = monotonic()
                experience, metrics = self.algorithm.experience(material)
                score_seconds = monotonic() - began
                # 3. watch, before learning like all else in this row
                stop = self._alarmed(iteration, metrics) and section.alarm.action != "warn"
                # 4. look: fixed prompts, samples
                if iteration >= 0 and iteration % section.samples_every == 0 and not stop:
                    metrics |= self.looks.look(iteration, self.watch.sound, samples)
                # 5. learn
                began = monotonic()
                if not stop:
                    metrics |= self._learn(iteration, experience)
                update_seconds = monotonic() - began
                # 6. log and keep
                metrics |= self._speed(material, gather_seconds, update_seconds) | {
                    "score_seconds": score_seconds
                }
                if steps is not None:
                    steps.write(iteration, metrics)
                progress.advance(1, {key: float(metrics.get(key) or 0.0) for key in SHOWN})
                release()
                if stop:
                    last = iteration
                    break
                if (
                    iteration + 1
                ) % section.checkpoint_every == 0 and iteration + 1 < section.iterations:
                    run.keep(
                        iteration + 1, self.algorithm.trainers, self._state(), [steps, samples]
                    )
                    self.looks.checkpointed()
            final = self.looks.look(last, self.watch.sound, samples)
            if steps is not None:
                steps.write(last, final)
        finally:
            progress.close()
            for stream in (steps, samples):
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
            index,
            self.section.rollouts,
            self.section.mini_batch,
            self.engine.rank,
            self.engine.world_size,
        )
        with self.algorithm.trainers["policy"].gathered():
            self.actor.refresh()
            return self.actor.rollout(prompts, "rollout", index)

    def _speed(
        self, material: Material, gather_seconds: float, update_seconds: float
    ) -> dict[str, Value]:
        speed: dict[str, Value] = {
            "rollout_seconds": gather_seconds,
            "update_seconds": update_seconds,
        }
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
            experience.select(rows)
            for rows in torch.arange(len(experience), device=self.engine.device).split(size)
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
                        raise self.run.stop_on_bad_step(
                            iteration, error, _evidence(name, batch, plain)
                        ) from error
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
        return pad(windows, [[True] * len(window) for window in windows], pad_id).to(
            self.engine.device
        )

    def _alarmed(self, iteration: int, metrics: Mapping[str, Value]) -> bool:
        """Take an iteration's signals in; whether the policy has collapsed by now. Told once, on every process alike."""
        before = self.watch.collapse
        self.watch.see(iteration, metrics)
        if before is None and self.watch.collapse is not None and self.run.is_main:
            log.warning("ppo: collapse at iteration %d: %s", iteration, self.watch.describe())
        return self.watch.collapse is not None

    def _state(self) -> dict[str, Any]:
        return {
            "algorithm": self.algorithm.state(),
            "watched": self.watch.rows,
            "looks": self.looks.state(),
        }

    def _load_state(self, state: dict[str, Any]) -> None:
        self.algorithm.load_state(state["algorithm"])
        self.watch.rows = state["watched"]
        self.looks.load_state(state["looks"])

    # -- the end -------------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        run, workspace, section = self.run, self.run.workspace, self.section
        returned = self.watch.collapse is not None and section.alarm.action == "return"
        best = self.looks.best if returned or section.keep == "best" else None
        self.looks.save(workspace.model("policy"), best=best is not None)
        if run.is_main:
            rows = [row for row in read_steps(workspace.steps("ppo")) if row["step"] >= 0]
            write_json(
                workspace.details("ppo"),
                {"reward_histograms": reward_histograms(read_steps(workspace.samples("ppo")))},
            )
            write_plot_data(workspace.steps("ppo"), workspace.plot_data("ppo"))
            summary = _summary(rows, run.seconds) | _verdict(self.watch, best, rows)
            summary["precision"] = self.engine.precision
            write_summary(workspace.metrics("ppo"), summary)
            run.checkpoints.finish()

    # -- helpers --------------------------------------------------------------------------------------------------------

    def _stream(self, split: str) -> PromptStream:
        table = read_rows_of(self.run.workspace, "prompts", split)
        return PromptStream(
            table, [transcript(text) for text in table["messages"]], self.run.settings.seed
        )

    def _uses_pretrain(self) -> bool:
        return self.section.ptx is not None and "pretrain" in self.algorithm.consumes


def _evidence(name: str, batch: Learnable, plain: TokenBatch | None) -> dict[str, Any]:
    return {
        "trainer": name,
        "plain_text": None if plain is None else plain.input_ids.tolist(),
        **batch.evidence(),
    }


def _peak(rows: list[dict[str, Any]], key: str) -> dict[str, Value]:
    values = [row[key] for row in rows if key in row]
    return {f"{key}_max": max(values)} if values else {}


def _summary(rows: list[dict[str, Any]], seconds: float) -> dict[str, Value]:
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
    rollout, update = (
        sum(row["rollout_seconds"] for row in rows),
        sum(row["update_seconds"] for row in rows),
    )
    tokens = sum(row["tokens"] for row in rows)
    return {
        **summary,
        "validation_reward_first": looks[0],
        "validation_reward_last": looks[-1],
        **_peak(rows, "first_ratio_deviation"),
        "iterations": len(rows),
        "seconds": seconds,
        "rollout_tokens_per_second": tokens / rollout,
        "update_tokens_per_second": tokens / update,
    }


def _verdict(
    watch: Watch, best: Mapping[str, float] | None, rows: list[dict[str, Any]]
) -> dict[str, Value]:
    """Whether and when the policy collapsed, and which look's policy was kept."""
    collapse = watch.collapse
    return {
        "collapsed": collapse is not None if watch.rows else None,
        "collapse_step": collapse,
        "kept_step": int(best["step"]) if best else int(rows[-1]["step"]),
        "kept_objective": best["objective"] if best else rows[-1].get("validation_objective"),
    }
