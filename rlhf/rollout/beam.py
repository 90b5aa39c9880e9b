"""Beam search: the likeliest responses of a model, by log pi.

Picking responses by search on a DPO model's implicit reward is picking the likeliest under pi: the
values of its states telescope (arXiv 2404.12358, section 5.2, eq. 12-13). So what counts is log pi,
and not log(pi / pi_ref).
"""

from collections.abc import Sequence, Set
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from rlhf.batches.padding import Ids
from rlhf.models.backbone import next_token_states, unembed


@dataclass(frozen=True)
class Beam:
    """A response, log pi of it, and whether it ended by itself; one that did not is cut off.

    parent: the place among the beams before of the one that it goes on from
    """

    response: list[int]
    logprob: float
    finished: bool
    parent: int = 0


@torch.no_grad()
def beam_search(
    model: PreTrainedModel,
    prompt: Ids,
    beams: int,
    max_new_tokens: int,
    eos_id: int,
    other_ends: Sequence[int] = (),
) -> list[Beam]:
    """The likeliest responses that are found, at most `beams`: those that ended first, likeliest first.

    Each step keeps the `beams` likeliest of all that there is: responses that have ended, and those
    that are a token longer. The end token, or one of `other_ends`, ends a response, which keeps its place from then on.
    log pi of the whole decides, at temperature 1; nothing is divided by the length. One beam is
    greedy decoding.
    """
    device = next(model.parameters()).device
    cache = DynamicCache(config=model.config)
    tokens = torch.tensor([list(prompt)], device=device)
    live, ended = [Beam([], 0.0, finished=False)], list[Beam]()
    ends = {eos_id, *other_ends}
    for step in range(max_new_tokens):
        # 1. what each may go on with
        seen = torch.ones((len(live), len(prompt) + step), dtype=torch.bool, device=device)
        states = next_token_states(model, tokens, seen, cache)
        longer = _longer(live, unembed(model, states).log_softmax(dim=1), beams, ends)

        # 2. the likeliest of all
        kept = _likeliest([*ended, *longer], beams)
        live = [beam for beam in kept if not beam.finished]
        ended = [beam for beam in kept if beam.finished]
        if not live:
            break

        # 3. their last tokens, and the keys and values of what stands before
        cache.batch_select_indices(torch.tensor([beam.parent for beam in live], device=device))
        tokens = torch.tensor([beam.response[-1:] for beam in live], device=device)
    return [*ended, *live]


def _longer(live: Sequence[Beam], logprobs: Tensor, beams: int, ends: Set[int]) -> list[Beam]:
    """The likeliest of all beams a token longer, at most `beams`; logprobs [L, V] of the next token."""
    before = torch.tensor([beam.logprob for beam in live], dtype=torch.float64)
    totals = before[:, None] + logprobs.double().cpu()
    best = totals.flatten().topk(min(beams, totals.numel()))
    found = []
    for logprob, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        parent, token = divmod(place, totals.shape[1])
        response = [*live[parent].response, token]
        found.append(Beam(response, logprob, token in ends, parent))
    return found


def _likeliest(found: Sequence[Beam], beams: int) -> list[Beam]:
    return sorted(found, key=lambda beam: -beam.logprob)[:beams]
