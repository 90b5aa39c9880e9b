"""The trunk's states of sequences that an algorithm learns from again and again.

kept = KeptTrunks(models)
batch = kept.join(batch)          a sequence is read by the trunk once, whenever it first comes
"""

from dataclasses import replace

import torch
from torch import Tensor

from rlhf.batches.padding import Packing, TokenBatch
from rlhf.models.roles import Models


class KeptTrunks:
    """States of whole sequences, in host memory: H numbers a token. Models without a trunk keep nothing.

    The trunk is frozen, so they stay right for the whole run.
    """

    def __init__(self, models: Models) -> None:
        self._models = models
        self._kept: dict[tuple[int, ...], Tensor] = {}

    def forget(self) -> None:
        """Nothing that was read will come again."""
        self._kept.clear()

    def join(self, batch: TokenBatch) -> TokenBatch:
        """The batch with the states of the shared trunk, if there is one."""
        if not self._models.trunk_blocks:
            return batch
        rows = [self._states(batch.select(slice(row, row + 1))) for row in range(len(batch))]
        states = Packing.of(batch.attention_mask.cpu()).padded(torch.cat(rows)[None])
        device = batch.input_ids.device
        return replace(
            batch, trunk_states=states.to(device), trunk_blocks=self._models.trunk_blocks
        )

    def _states(self, row: TokenBatch) -> Tensor:
        """Of a row, [T, H]: read alone, so that they do not depend on when or beside whom it first came."""
        sequence = tuple(row.input_ids[0].tolist())
        if sequence not in self._kept:
            states = self._models.with_trunk_states(row, 1).trunk_states
            assert states is not None
            self._kept[sequence] = states[0].cpu()
        return self._kept[sequence]
