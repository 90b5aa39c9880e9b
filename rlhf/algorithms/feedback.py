"""Demonstrations and pairs that an algorithm learns from beside its rollouts.

Each table's rows come in an order fixed by the seed, epoch after epoch. Any iteration's share of any
process can be asked for, so a resumed run needs no state.
"""

import math
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from rlhf.algorithms.base import Context, Sources
from rlhf.batches.comparisons import Comparisons, compare
from rlhf.batches.demonstrations import last_answer
from rlhf.batches.padding import TokenBatch, pad_responses
from rlhf.batches.tables import read_rows_of
from rlhf.common.errors import DataError
from rlhf.core.seeds import derive_seed
from rlhf.rollout.prompts import PromptBatch, PromptStream, Share

# where demonstrations and pairs come from
TABLES = ("sft", "preferences")


@dataclass(frozen=True)
class Demonstrations:
    """Answers to learn from, and what they answer.

    answers: up to the length of a response
    finished: whether an answer ends with the end token, as it does unless it was cut
    cut: whether it was cut here; `prepare` may have cut it too, at its own limit
    """

    prompts: PromptBatch
    answers: list[list[int]]
    finished: list[bool]
    cut: list[bool]

    def columns(self, device: torch.device) -> dict[str, Tensor]:
        """What they are described by in the step log, [D] each."""
        values = {
            "length": [len(answer) for answer in self.answers],
            "finished": self.finished,
            "cut": self.cut,
        }
        return {
            f"demonstration_{name}": torch.tensor(column, dtype=torch.float32, device=device)
            for name, column in values.items()
        }


class Feedback:
    """The rows of tables `sft` and `preferences` for each iteration, this process's part of them."""

    def __init__(self, context: Context) -> None:
        settings, engine, tokenizer = context.settings, context.engine, context.tokenizer
        # comparisons a forward pass: two answers each, and at least one of them
        self.comparisons_at_once = max(1, settings.ppo.micro_batch // 2)
        self._eos_id = int(tokenizer.eos_token_id)
        self._pad_id = int(tokenizer.pad_token_id)
        self._limit = settings.ppo.max_response_tokens or settings.data.max_response_tokens
        self._seed = settings.seed
        self._share = Share(engine.rank, engine.world_size)
        self._workspace = context.workspace
        self._device = engine.device
        self._tables: dict[str, pd.DataFrame] = {}
        self._streams: dict[str, PromptStream] = {}

    def demonstrations(self, sources: Sources, iteration: int, count: int) -> Demonstrations:
        """`count` demonstrations over all processes, cut where the policy's responses are."""
        prompts = self._take("sft", sources, iteration, count)
        whole = [self._tables["sft"]["answer_ids"].iloc[row] for row in prompts.table_rows]
        answers = [answer[: self._limit] for answer in whole]
        return Demonstrations(
            prompts=prompts,
            answers=answers,
            finished=[answer[-1] == self._eos_id for answer in answers],
            cut=[len(answer) > self._limit for answer in whole],
        )

    def pairs(self, sources: Sources, iteration: int, count: int) -> Comparisons:
        """`count` preference pairs over all processes, as the reward model's stage reads them."""
        prompts = self._take("preferences", sources, iteration, count)
        rows = self._tables["preferences"].iloc[prompts.table_rows]
        chosen, rejected = list(rows["chosen_ids"]), list(rows["rejected_ids"])
        return compare(prompts.ids, chosen, rejected, self._pad_id, self._device)

    def held_out_pairs(self, count: int) -> Comparisons:
        """The first `count` pairs of split validation, this process's part.

        Every process has as many: some are there twice, the second time with weight 0.
        """
        table = read_rows_of(self._workspace, "preferences", "validation")[:count]
        size = self._share.world_size
        places = range(self._share.rank, math.ceil(len(table) / size) * size, size)
        rows = table.iloc[[min(place, len(table) - 1) for place in places]]
        answers = list(rows["chosen_ids"]), list(rows["rejected_ids"])
        pairs = compare(list(rows["prompt_ids"]), *answers, self._pad_id, self._device)
        counts = torch.tensor([place < len(table) for place in places], device=self._device)
        return replace(pairs, weights=pairs.weights * counts)

    def answered(self, demonstrations: Demonstrations) -> TokenBatch:
        """Each prompt with its demonstration, [D, T]; the targets are the demonstration's tokens."""
        prompts, answers = demonstrations.prompts.ids, demonstrations.answers
        return pad_responses(prompts, answers, self._pad_id).to(self._device)

    def against(self, demonstrations: Demonstrations, samples: list[list[int]]) -> Comparisons:
        """Each demonstration, preferred to a sampled response to its prompt."""
        prompts, answers = demonstrations.prompts.ids, demonstrations.answers
        return compare(prompts, answers, samples, self._pad_id, self._device)

    # -- helpers -----------------------------------------------------------------------------------

    def _take(self, table: str, sources: Sources, iteration: int, count: int) -> PromptBatch:
        if table not in self._streams:
            rows = sources.rows(table)
            if table == "sft":
                rows = self._with_last_answers(rows)
            self._tables[table] = rows
            # an order of its own, whatever other tables are as long
            seed = derive_seed(self._seed, "feedback", table)
            self._streams[table] = PromptStream(rows, list(rows["id"]), seed)
        return self._streams[table].take(iteration, count, share=self._share)

    def _with_last_answers(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The dialogues as prompt and answer; of several answers the last is the demonstration."""
        prompts, answers = [], []
        columns = (rows["id"], rows["input_ids"], rows["loss_mask"])
        for name, ids, mask in zip(*columns, strict=True):
            try:
                prompt, answer = last_answer(ids, mask)
            except ValueError as error:
                path = self._workspace.prepared / "sft.parquet"
                raise DataError(path, f"row {name}: {error}") from None
            prompts.append(prompt)
            answers.append(answer)
        return rows.assign(prompt_ids=prompts, answer_ids=answers)
