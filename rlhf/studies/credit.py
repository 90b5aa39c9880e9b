"""Where a policy puts its credit: does log pi - log pi_ref find a wrong token that was planted?

In the token MDP this log-ratio is, times beta, the advantage that a policy says a token has ("From r
to Q*", arXiv 2404.12358, eq. 10). The paper shows pictures of it; here it is one number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.batches.padding import pad_responses
from rlhf.core.seeds import generator
from rlhf.engine.single import TorchEngine
from rlhf.models.backbone import hidden_states, target_logits, token_logprobs
from rlhf.models.saving import load_causal_lm, load_tokenizer

_BATCH = 32


@dataclass(frozen=True)
class Planted:
    """Good answers with one wrong word or token each.

    prompts, responses: token ids; errors: which tokens of each response are wrong, one or several
    that follow each other
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    errors: list[range]


@torch.no_grad()
def plant(pairs: pd.DataFrame, reference: Path, engine: TorchEngine, seed: int) -> Planted:
    """Put another token in place of one of each chosen answer's, never of its last.

    The reference draws it, so that it is a mistake which that model could make. A token that it never
    writes has a log-probability so low that whatever a policy learns raises it. Some of those drawn
    are no mistake but another wording.

    Answers of fewer than two tokens have no place for one and are left out.
    """
    rows = [row for row, ids in enumerate(pairs["chosen_ids"]) if len(ids) > 1]
    prompts = [[int(token) for token in pairs["prompt_ids"].iloc[row]] for row in rows]
    responses = [[int(token) for token in pairs["chosen_ids"].iloc[row]] for row in rows]
    randoms = [generator(seed, "planted", row) for row in rows]
    places = [
        int(torch.randint(len(response) - 1, (1,), generator=random))
        for response, random in zip(responses, randoms, strict=True)
    ]
    special = load_tokenizer(reference).all_special_ids
    logits = _response_logits(load_causal_lm(reference), prompts, responses, engine)

    planted = Planted(prompts, [], [range(place, place + 1) for place in places])
    for response, place, random, row in zip(responses, places, randoms, logits, strict=True):
        others = row[place].float().cpu()
        others[[*special, response[place]]] = -torch.inf
        wrong = int(torch.multinomial(others.softmax(0), 1, generator=random))
        planted.responses.append([*response[:place], wrong, *response[place + 1 :]])
    return planted


def differing(pairs: pd.DataFrame) -> Planted:
    """The rejected answers of pairs that are one word apart (`planted:ROWS`); that word is the error.

    These are errors of the kind that the pairs taught, unlike those of `plant`. A word's tokens are
    those between what both answers begin with and what both end with; where a rejected answer has
    none there (a word of the chosen one is missing) it is left out.
    """
    planted = Planted([], [], [])
    for prompt, chosen, rejected in zip(
        pairs["prompt_ids"], pairs["chosen_ids"], pairs["rejected_ids"], strict=True
    ):
        first = _shared(chosen, rejected)
        last = len(rejected) - _shared(chosen[first:][::-1], rejected[first:][::-1])
        if first < last:
            planted.prompts.append([int(token) for token in prompt])
            planted.responses.append([int(token) for token in rejected])
            planted.errors.append(range(first, last))
    return planted


def _shared(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens both begin with."""
    same = (token == their for token, their in zip(one, other, strict=False))
    return sum(1 for _ in takewhile(bool, same))


def credit_auc(policy: Path, reference: Path, planted: Planted, engine: TorchEngine) -> float:
    """How well a low log pi - log pi_ref tells the planted tokens from all others; 0.5 is chance."""
    above = logprobs_of(policy, planted, engine)
    below = logprobs_of(reference, planted, engine)
    credits = [
        [ours - theirs for ours, theirs in zip(*pair, strict=True)]
        for pair in zip(above, below, strict=True)
    ]
    return auc(credits, planted.errors)


def auc(credits: Sequence[Sequence[float]], errors: Sequence[range]) -> float:
    """The share of (wrong, other) tokens of which the wrong one has the lower credit; ties half.

    By the ranks of all tokens together (Mann-Whitney).
    """
    flat = [credit for row in credits for credit in row]
    is_wrong = [
        at in error for row, error in zip(credits, errors, strict=True) for at in range(len(row))
    ]
    # the lowest credit has the highest rank
    ranks = rankdata([-credit for credit in flat])
    count = sum(is_wrong)
    others = len(flat) - count
    total = sum(rank for rank, yes in zip(ranks, is_wrong, strict=True) if yes)
    return float((total - count * (count + 1) / 2) / (count * others))


@torch.no_grad()
def logprobs_of(directory: Path, planted: Planted, engine: TorchEngine) -> list[list[float]]:
    """log p of each response token under a model, response by response."""
    model = load_causal_lm(directory)
    logits = _response_logits(model, planted.prompts, planted.responses, engine)
    return [
        token_logprobs(row, torch.tensor(response, device=row.device)).tolist()
        for row, response in zip(logits, planted.responses, strict=True)
    ]


def _response_logits(
    model: PreTrainedModel,
    prompts: list[list[int]],
    responses: list[list[int]],
    engine: TorchEngine,
) -> Iterator[Tensor]:
    """For each response [R, V], what predicts each of its tokens."""
    model = engine.frozen(model)
    pad_id = int(model.config.pad_token_id or 0)
    for start in range(0, len(responses), _BATCH):
        rows = slice(start, start + _BATCH)
        batch = pad_responses(prompts[rows], responses[rows], pad_id).to(engine.device)
        with engine.autocast():
            logits = target_logits(model, hidden_states(model, batch), batch)
        yield from logits.split([len(response) for response in responses[rows]])
