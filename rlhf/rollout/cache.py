"""Keys and values of a batch that is decoded.

Prompts are read in groups of like length; room is kept for the responses.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from rlhf.models.backbone import next_token_states

# prompts read at once: short ones are not padded to the longest of all
_GROUP = 16


def read_prompts(
    model: PreTrainedModel, ids: Tensor, mask: Tensor, room: int
) -> tuple[Tensor, DynamicCache]:
    """Read left-padded prompts: the last hidden state of each, [B, H], and the filled cache.

    ids, mask: [B, P]; the cache has room for `room` more tokens
    """
    cache = DynamicCache(config=model.config)
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        # layers of a window: they keep count themselves
        return next_token_states(model, ids, mask, cache), cache

    # 1. room for all prompts and responses
    lengths, width = mask.sum(dim=1), ids.shape[1]
    layers = [_RoomyLayer(len(ids), width, room) for _ in cache.layers]
    cache.layers = list(layers)

    # 2. prompts of like length together, each group as narrow as its longest
    last: list[Tensor] = []
    order = lengths.argsort(stable=True)
    for rows in order.split(_GROUP):
        start = width - int(lengths[rows].max())
        part = DynamicCache(config=model.config)
        last.append(next_token_states(model, ids[rows, start:], mask[rows, start:], part))
        for layer, read in zip(layers, part.layers, strict=True):
            assert isinstance(read, DynamicLayer)
            assert read.keys is not None and read.values is not None
            layer.put(rows, start, read.keys, read.values)

    # 3. back to the order of the prompts
    return torch.cat(last)[order.argsort()], cache


class _RoomyLayer(DynamicLayer):
    """Grows in place: copying all keys and values for each new token is a tenth of decoding's time."""

    def __init__(self, rows: int, width: int, room: int) -> None:
        super().__init__()
        self._rows, self._width, self._room = rows, width, room

    def put(self, rows: Tensor, start: int, keys: Tensor, values: Tensor) -> None:
        """Take in what some rows' prompts gave, from column `start` on; the columns before are padding."""
        if not self.is_initialized:
            self.lazy_initialization(keys, values)
            shape = (self._rows, keys.shape[1], self._width + self._room)
            self._keys = keys.new_zeros(*shape, keys.shape[3])
            self._values = values.new_zeros(*shape, values.shape[3])
            self._show(self._width)
        self._keys[rows, :, start : self._width] = keys
        self._values[rows, :, start : self._width] = values

    def update(
        self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Append the newest tokens' keys and values, [B, G, Q, D]; gives all."""
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        self._keys[:, :, begin:end] = key_states
        self._values[:, :, begin:end] = value_states
        return self._show(end)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; those that are in their place are not copied."""
        moved = (indices != torch.arange(len(indices), device=indices.device)).nonzero().squeeze(1)
        for store in (self._keys, self._values):
            store[moved] = store[indices[moved]]
        self._keys, self._values = self._keys[: len(indices)], self._values[: len(indices)]
        self._show(self.get_seq_length())

    def reset(self) -> None:
        """Nothing that `sample` does not do: the store would have to follow."""
        raise NotImplementedError

    def batch_repeat_interleave(self, repeats: int) -> None:
        """As `reset`."""
        raise NotImplementedError

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """As `reset`."""
        raise NotImplementedError

    def _show(self, end: int) -> tuple[Tensor, Tensor]:
        shown = self._keys[:, :, :end], self._values[:, :, :end]
        self.keys, self.values = shown
        return shown
