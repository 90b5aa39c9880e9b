"""Validation of a policy in training: fixed prompts, fixed random numbers, only the policy differs."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf.algorithms.base import POLICY, Algorithm, Signals
from rlhf.batches.tables import table_path
from rlhf.common.errors import DataError
from rlhf.common.files import staged_directory
from rlhf.common.metrics import Value
from rlhf.core.steps import StepLog
from rlhf.core.tally import Tally
from rlhf.rollout.diversity import distinct_2
from rlhf.rollout.prompts import PromptBatch
from rlhf.rollout.records import Rollout
from rlhf.training.monitor import ENOUGH, points
from rlhf.training.run import TrainingRun
from rlhf.training.sources import RunSources

# metrics that every validation has, whatever the algorithm adds
_OWN = frozenset({"reward", "objective", "win_rate", "distinct_2"})
_BINS = 20
# the same answer in another batch may get a reward that differs by so much
_ROUNDING = 1e-4


@dataclass
class Validator:
    """The validations of one run, and the best policy among them.

    The best is that of the validation with the highest mean objective, among those at which the
    policy was sound, by the validation's own signals too. Its weights lie beside the checkpoints,
    and so do those of the best that the last checkpoint names: a resumed run may not come to the
    later one again.

    start: the first validation's signals; start_rewards: its rewards, by the prompt's row
    """

    run: TrainingRun
    algorithm: Algorithm
    sources: RunSources
    tokenizer: PreTrainedTokenizerBase
    best: dict[str, float] | None = None
    start: Signals | None = None
    start_rewards: dict[int, float] = field(default_factory=dict)
    prompts: PromptBatch = field(init=False)
    _best_of_checkpoint: str | None = None

    def __post_init__(self) -> None:
        self.prompts = self.sources.validation_prompts()
        if not len(self.prompts):
            raise DataError(
                table_path(self.run.workspace, "prompts"),
                "fewer rows of split validation than engine.processes",
            )

    def validate(self, iteration: int, sound: bool, samples: StepLog | None) -> dict[str, Value]:
        """Let the policy answer, judge the answers, log them, and store the policy if it is the best."""
        # 1. responses and what the algorithm says of them
        rollout = self.sources.validation_rollout(self.prompts)
        validation = self.algorithm.validate(rollout)
        if taken := _OWN & validation.metrics.keys():
            raise ValueError(f"metrics of a validation: {sorted(taken)} are the loop's own")
        tally = Tally()
        tally.add(reward=validation.scores, objective=validation.objective, **validation.metrics)
        means = tally.means(self.run.engine.all_sum)
        metrics: dict[str, Value] = {f"validation_{key}": value for key, value in means.items()}

        # 2. samples of all processes
        rows = sample_rows(self.prompts, rollout, validation.scores, self.tokenizer)
        pairs = list(zip(rows, rollout.responses, strict=True))
        everyone = self.run.engine.all_gather(pairs)
        metrics["validation_distinct_2"] = distinct_2([response for _, response in everyone])
        scored = list(zip(self.prompts.table_rows, validation.scores.tolist(), strict=True))
        rewards = dict(self.run.engine.all_gather(scored))
        self.start_rewards = self.start_rewards or rewards
        metrics["validation_win_rate"] = win_rate(rewards, self.start_rewards)
        if samples is not None:
            for row, _ in everyone[: self.run.settings.ppo.validation_prompts]:
                samples.write(iteration, row)

        # 3. the best so far?
        objective = means["objective"]
        sound = self._is_sound(validation.signals) and sound
        if sound and (self.best is None or objective > self.best["objective"]):
            self.best = {"step": iteration, "objective": objective}
            if self._best_is_wanted:
                self.algorithm.models.save(POLICY, self.tokenizer, self._best_directory)
                self._remove_others()
        return metrics

    def save_policy(self, directory: Path, *, best: bool) -> None:
        """Write the policy as it is, or the best one, as a Hugging Face directory."""
        if not best or self.best is None:
            self.algorithm.models.save(POLICY, self.tokenizer, directory)
        elif self.run.is_main:
            with staged_directory(directory) as partial:
                shutil.copytree(self._best_directory, partial, dirs_exist_ok=True)

    # -- checkpoints -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        start = None if self.start is None else asdict(self.start)
        return {"best": self.best, "start": start, "start_rewards": [*self.start_rewards.items()]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best, start = state["best"], state["start"]
        self.start = None if start is None else Signals(**start)
        self.start_rewards = dict(state["start_rewards"])
        self._best_of_checkpoint = self._best_name

    def checkpointed(self) -> None:
        """Let go of what only the checkpoint before the one just written names."""
        self._best_of_checkpoint = self._best_name
        self._remove_others()

    # -- helpers -----------------------------------------------------------------------------------

    @property
    def _best_is_wanted(self) -> bool:
        """Whether the settings may ever ask for the best policy; it costs disk."""
        ppo = self.run.settings.ppo
        return ppo.keep == "best" or ppo.alarm.action == "return"

    @property
    def _best_name(self) -> str | None:
        return None if self.best is None else f"best-{int(self.best['step']):08d}"

    @property
    def _best_directory(self) -> Path:
        assert self._best_name is not None
        return self.run.checkpoints.directory / self._best_name

    def _remove_others(self) -> None:
        if not self.run.is_main:
            return
        wanted = (self._best_name, self._best_of_checkpoint)
        for path in self.run.checkpoints.directory.glob("best-*"):
            if path.name not in wanted:
                shutil.rmtree(path)

    def _is_sound(self, signals: Signals | None) -> bool:
        """Whether too little speaks for a collapse here.

        The alarm's own signals are those before the last update; these are of the policy as it is.
        """
        if signals is None:
            return True
        self.start = self.start or signals
        return points(signals, self.start) < ENOUGH


def win_rate(rewards: Mapping[int, float], start: Mapping[int, float]) -> float:
    """The share of the prompts whose reward is above that at the start, 0 to 1.

    Equal ones, but for rounding, count half. A few answers with a very low reward, as one that is cut off
    may have, move the mean reward far, but not this.
    """
    gains = [rewards[row] - start[row] for row in start]
    better = sum(gain > _ROUNDING for gain in gains)
    equal = sum(abs(gain) <= _ROUNDING for gain in gains)
    return (better + equal / 2) / len(gains)


def sample_rows(
    prompts: PromptBatch, rollout: Rollout, scores: Tensor, tokenizer: PreTrainedTokenizerBase
) -> list[dict[str, Value]]:
    """A row of the samples' log for each response; `row` is that of the split's table."""
    columns = (
        prompts.table_rows,
        prompts.kinds,
        prompts.texts,
        rollout.responses,
        scores.tolist(),
    )
    return [
        {
            "row": row,
            "kind": kind,
            "prompt": text,
            "response": str(tokenizer.decode(response, skip_special_tokens=True)).strip(),
            # decoding and tokenising again may change them
            "response_ids": " ".join(map(str, response)),
            "reward": score,
            "length": len(response),
        }
        for row, kind, text, response, score in zip(*columns, strict=True)
    ]


def reward_histograms(samples: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rewards of the validation prompts at each validation, over common edges (fig. 13)."""
    rewards = pd.Series([row["reward"] for row in samples], dtype="float64")
    low, high = float(rewards.min()), float(rewards.max())
    edges = [low + (high - low + 1e-6) * index / _BINS for index in range(_BINS + 1)]
    table = []
    for step in sorted({row["step"] for row in samples}):
        values = pd.Series([row["reward"] for row in samples if row["step"] == step])
        counts = pd.cut(values, edges, include_lowest=True).value_counts(sort=False)
        table.append({"step": step, "edges": edges, "counts": [int(count) for count in counts]})
    return table
