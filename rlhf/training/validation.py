"""Looks at a policy in training: fixed prompts, fixed random numbers, so that only the policy differs over time."""

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.algorithms import Algorithm
from rlhf.common.files import staged_directory
from rlhf.common.metrics import Value
from rlhf.core.steps import StepLog
from rlhf.models.saving import save_causal_lm
from rlhf.rollout.actor import Actor
from rlhf.rollout.diversity import distinct_2
from rlhf.rollout.records import PromptBatch, Rollout
from rlhf.training.monitor import ENOUGH, points
from rlhf.training.run import StageRun


@dataclass
class Looks:
    """The looks of one run, and the best policy that they have seen.

    Best is the look with the highest mean of the algorithm's objective over the validation prompts, among those at which
    the policy was sound, by this look's signals too. Its weights lie beside the checkpoints, those of the best that the
    last checkpoint names as well: a resumed run may not see the later one again.
    """

    run: StageRun
    algorithm: Algorithm[Any]
    actor: Actor
    tokenizer: PreTrainedTokenizerBase
    prompts: PromptBatch  # this process's share
    best: dict[str, float] | None = None
    start: dict[str, float] | None = None  # the first look's signals
    _kept: str | None = None  # where the best of the last checkpoint lies

    def look(self, iteration: int, sound: bool, samples: StepLog | None) -> dict[str, Value]:
        """Let the policy answer, score what it says, log the samples, and keep the policy if it is the best so far."""
        with self.algorithm.trainers["policy"].gathered():
            self.actor.refresh()
            rollout = self.actor.rollout(self.prompts, "validation")
        rewards, tally = self.algorithm.look(rollout)
        means: dict[str, Value] = {
            f"validation_{key}": value
            for key, value in tally.means(self.run.engine.all_sum).items()
        }
        rows = _sample_rows(self.prompts, rollout, rewards, self.tokenizer)
        everyone = self.run.engine.all_gather(list(zip(rows, rollout.responses, strict=True)))
        means["validation_distinct_2"] = distinct_2([response for _, response in everyone])
        if samples is not None:
            for row, _ in everyone[: self.run.settings.ppo.validation_prompts]:
                samples.write(iteration, row)
        sound = self._sound(means) and sound
        objective = means.get("validation_objective")
        if (
            sound
            and isinstance(objective, float)
            and (self.best is None or objective > self.best["objective"])
        ):
            self.best = {"step": iteration, "objective": objective}
            if self._wanted:
                self._write(self._directory)
                self._tidy()
        return means

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"best": self.best, "start": self.start}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, self.start = state["best"], state["start"]
        self._kept = self._name

    def checkpointed(self) -> None:
        """Let go of what only the checkpoint before the one just written names."""
        self._kept = self._name
        self._tidy()

    def save(self, directory: Path, *, best: bool) -> None:
        """Write the policy as it is, or the best one, as a Hugging Face directory."""
        if not best or self.best is None:
            self._write(directory)
        elif self.run.is_main:
            with staged_directory(directory) as partial:
                shutil.copytree(self._directory, partial, dirs_exist_ok=True)

    @property
    def _wanted(self) -> bool:
        """Whether the settings may ever ask for the best policy; it costs disk."""
        ppo = self.run.settings.ppo
        return ppo.keep == "best" or ppo.alarm.action == "return"

    @property
    def _name(self) -> str | None:
        return None if self.best is None else f"best-{int(self.best['step']):08d}"

    @property
    def _directory(self) -> Path:
        assert self._name is not None
        return self.run.checkpoints.directory / self._name

    def _tidy(self) -> None:
        if self.run.is_main:
            for path in self.run.checkpoints.directory.glob("best-*"):
                if path.name not in (self._name, self._kept):
                    shutil.rmtree(path)

    def _sound(self, means: dict[str, Value]) -> bool:
        """Whether too little speaks for a collapse here; the alarm's own signals are those before the last update."""
        keys = {
            "perplexity": "surprise",
            "response_length": "length",
            "finished": "finished",
            "kl": "kl",
        }
        found = {name: means.get(f"validation_{key}") for name, key in keys.items()}
        signals = {name: float(value) for name, value in found.items() if isinstance(value, float)}
        if signals.keys() != keys.keys():
            return True  # of an algorithm without them
        signals["perplexity"] = math.exp(signals["perplexity"])
        self.start = self.start or signals
        return points(signals, self.start) < ENOUGH

    def _write(self, directory: Path) -> None:
        with self.algorithm.trainers["policy"].gathered():
            if self.run.is_main:
                with staged_directory(directory) as partial:
                    save_causal_lm(self.algorithm.policy(), self.tokenizer, partial)


def transcript(messages: str) -> str:
    """A dialogue, given as JSON text, for readers."""
    return "\n\n".join(
        f"{message['role']}: {message['content']}" for message in json.loads(messages)
    )


def _sample_rows(
    prompts: PromptBatch, rollout: Rollout, rewards: Tensor, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Value]]:
    return [
        {
            "row": row,  # of the split's table
            "kind": kind,
            "prompt": text,
            "response": str(tokenizer.decode(response, skip_special_tokens=True)).strip(),
            "response_ids": " ".join(
                map(str, response)
            ),  # decoding and tokenising again may change them
            "reward": reward,
            "length": len(response),
        }
        for row, kind, text, response, reward in zip(
            prompts.rows,
            prompts.kinds,
            prompts.texts,
            rollout.responses,
            rewards.tolist(),
            strict=True,
        )
    ]


def reward_histograms(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rewards of the validation prompts at each look, over common edges (fig. 13)."""
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
