"""Which sequences share a batch: the plan of an epoch, and the forward passes of a step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from rlhf.core.seeds import generator


@dataclass(frozen=True)
class Limits:
    """Bounds of one batch: padded tokens (at most) and items (at least, at most)."""

    tokens: int
    min_items: int = 1
    max_items: int = 1_000_000


def token_batches(
    lengths: Sequence[int], limits: Limits, seed: int, *names: str | int
) -> list[list[int]]:
    """Group items into batches of near-equal token count (section 3.1: dynamic batches).

    Gives lists of indices.

    Items are shuffled by the seed, sorted by length within wide windows so that padding stays
    small, cut into batches of at most `tokens` padded tokens, and the batches shuffled again.
    `min_items` wins over `tokens`: a batch that is left below it takes from its neighbour what it
    lacks, or joins it.
    """
    random = generator(seed, *names)
    order = torch.randperm(len(lengths), generator=random).tolist()
    # sorting within windows of about 16 batches keeps the order random and the padding small
    mean_length = max(1, sum(lengths) // max(1, len(lengths)))
    window = 16 * max(1, limits.tokens // mean_length)
    batches: list[list[int]] = []
    for start in range(0, len(order), window):
        part = sorted(order[start : start + window], key=lambda index: lengths[index])
        batches.extend(_cut(part, lengths, limits))
    batches = _fill_up(batches, limits.min_items)
    shuffled = torch.randperm(len(batches), generator=random).tolist()
    return [batches[index] for index in shuffled]


def _cut(part: list[int], lengths: Sequence[int], limits: Limits) -> list[list[int]]:
    batches: list[list[int]] = []
    current: list[int] = []
    for index in part:
        longest = max(lengths[item] for item in [*current, index])
        # padded tokens of the batch with this item
        grown = (len(current) + 1) * longest
        too_many_tokens = grown > limits.tokens and len(current) >= limits.min_items
        full = too_many_tokens or len(current) >= limits.max_items
        if current and full:
            batches.append(current)
            current = []
        current.append(index)
    if current:
        batches.append(current)
    return batches


def _fill_up(batches: list[list[int]], min_items: int) -> list[list[int]]:
    filled: list[list[int]] = []
    for batch in batches:
        if filled and min(len(batch), len(filled[-1])) < min_items:
            both = filled.pop() + batch
            rest = len(both) - min_items
            if rest >= min_items:
                filled.append(both[:rest])
                batch = both[rest:]
            else:
                batch = both
        filled.append(batch)
    return filled


def epoch_plan(
    lengths: Sequence[int], limits: Limits, epochs: float, seed: int, *names: str | int
) -> list[list[int]]:
    """The batches of all epochs in the order of training.

    A fractional epoch is cut short, but never empty.
    """
    plan: list[list[int]] = []
    epoch = 0
    while epochs > epoch:
        batches = token_batches(lengths, limits, seed, *names, "epoch", epoch)
        part = min(1.0, epochs - epoch)
        plan.extend(batches[: max(1, round(len(batches) * part))])
        epoch += 1
    return plan


def micro_batches(items: Sequence[int], lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Split a batch into forward passes of at most `tokens` padded tokens, longest items first."""
    ordered = sorted(items, key=lambda index: (-lengths[index], index))
    return _cut(ordered, lengths, Limits(tokens))
