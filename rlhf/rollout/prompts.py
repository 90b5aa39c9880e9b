"""Prompts to answer: the endless stream of training prompts, and the fixed ones of validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from rlhf.core.seeds import generator

# one entry a turn, with `role` and `content`
Messages = list[dict[str, str]]


@dataclass(frozen=True)
class PromptBatch:
    """Prompts, one a row; a prompt that gets several responses has as many rows, side by side.

    ids: token ids; kinds, texts: for readers
    messages: the dialogue of each, empty where the stream was made without
    references: the right answer to each, None where the table has none
    table_rows: index of each in the table of its split
    positions: what its random streams are named by, its place in the stream of prompts
    response_numbers: 0 for a prompt's first response, 1 for its second
    """

    ids: list[list[int]]
    kinds: list[str]
    texts: list[str]
    messages: list[Messages]
    references: list[str | None]
    table_rows: list[int]
    positions: list[int]
    response_numbers: list[int]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Share:
    """This process's part of the work: which one of how many."""

    rank: int = 0
    world_size: int = 1


class PromptStream:
    """The prompts of a table in an order fixed by the seed, epoch after epoch.

    Any iteration's share can be asked for, so a resumed run needs no state.
    """

    def __init__(
        self,
        table: pd.DataFrame,
        texts: Sequence[str],
        seed: int,
        messages: Sequence[Messages] | None = None,
    ) -> None:
        self._table = table
        self._texts = texts
        self._messages = messages
        self._seed = seed
        self._orders: dict[int, list[int]] = {}

    def take(
        self,
        iteration: int,
        count: int,
        mini_batch: int | None = None,
        share: Share | None = None,
        responses: int = 1,
    ) -> PromptBatch:
        """The prompts of iteration `iteration` (from 0): `count` rows over all processes.

        An iteration owns a block of `count` prompts. With several `responses`, as many rows of each
        prompt, the first of the block are enough: every draw of an iteration names the same ones.

        This process gets a part of every mini-batch, so that mini-batches are the same however
        many processes there are; neither splits the rows of one prompt. Raises ValueError where the
        counts do not divide.
        """
        share = share or Share()
        size = mini_batch or count
        if size % (responses * share.world_size) or count % size:
            raise ValueError(
                f"{count} rows in mini-batches of {size} do not divide into "
                f"{responses} responses a prompt on {share.world_size} processes"
            )
        first = iteration * count
        # from here on in prompts
        prompts, size = count // responses, size // responses
        positions = [
            first + place
            for place in range(prompts)
            # the part of its mini-batch that a prompt falls into
            if place % size * share.world_size // size == share.rank
        ]
        table_rows = [self._table_row(position) for position in positions]
        return self._batch(table_rows, positions, responses)

    def first(self, count: int, share: Share | None = None) -> PromptBatch:
        """The first `count` rows of the table, as they stand: a fixed set for validation."""
        share = share or Share()
        rows = list(range(min(count, len(self._table))))[share.rank :: share.world_size]
        return self._batch(rows, rows)

    def _table_row(self, position: int) -> int:
        # an epoch's order is drawn once and depends on nothing but its number
        epoch, place = divmod(position, len(self._table))
        if epoch not in self._orders:
            random = generator(self._seed, "prompts", epoch)
            order = torch.randperm(len(self._table), generator=random)
            self._orders[epoch] = order.tolist()
        return self._orders[epoch][place]

    def _batch(
        self, table_rows: Sequence[int], positions: Sequence[int], responses: int = 1
    ) -> PromptBatch:
        # rows of one prompt lie side by side
        numbers = range(responses)
        rows = [row for row in table_rows for _ in numbers]
        part = self._table.iloc[rows]
        return PromptBatch(
            ids=[[int(token) for token in tokens] for tokens in part["prompt_ids"]],
            kinds=[str(kind) for kind in part["kind"]],
            texts=[self._texts[row] for row in rows],
            messages=[self._messages[row] if self._messages else [] for row in rows],
            references=_references(part),
            table_rows=rows,
            positions=[position for position in positions for _ in numbers],
            response_numbers=[number for _ in positions for number in numbers],
        )


def _references(rows: pd.DataFrame) -> list[str | None]:
    """The right answers; a table without any has no column of them."""
    if "reference" not in rows.columns:
        return [None] * len(rows)
    return [None if pd.isna(value) else str(value) for value in rows["reference"]]
