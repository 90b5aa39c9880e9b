"""Where a policy puts its credit: does log pi - log pi_ref find a wrong token that was planted?

In the token MDP this log-ratio is, times beta, the advantage that a policy says a token has ("From r
to Q*", arXiv 2404.12358, eq. 10). The paper shows pictures of it; here it is one number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from scipy.stats import rankdata

from rlhf.batches.padding import pad_responses
from rlhf.core.seeds import generator
from rlhf.engine.single import TorchEngine
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.models.saving import load_causal_lm

_BATCH = 32


@dataclass(frozen=True)
class Planted:
    """Good answers with one wrong token each.

    prompts, responses: token ids; places: of the wrong token in each response
    """

    prompts: list[list[int]]
    responses: list[list[int]]
    places: list[int]


def plant(pairs: pd.DataFrame, seed: int) -> Planted:
    """Put a token of another answer in place of one of each chosen answer's, never of its last.

    Answers of fewer than two tokens have no place for one and are left out.
    """
    chosen = [[int(token) for token in ids] for ids in pairs["chosen_ids"]]
    # the last token ends an answer
    pool = sorted({token for ids in chosen for token in ids[:-1]})
    planted = Planted([], [], [])
    for row, (prompt, response) in enumerate(zip(pairs["prompt_ids"], chosen, strict=True)):
        random = generator(seed, "planted", row)
        others = [token for token in pool if token not in response]
        if len(response) < 2 or not others:
            continue
        place = int(torch.randint(len(response) - 1, (1,), generator=random))
        wrong = others[int(torch.randint(len(others), (1,), generator=random))]
        planted.prompts.append([int(token) for token in prompt])
        planted.responses.append([*response[:place], wrong, *response[place + 1 :]])
        planted.places.append(place)
    return planted


def credit_auc(policy: Path, reference: Path, planted: Planted, engine: TorchEngine) -> float:
    """How well a low log pi - log pi_ref tells the planted tokens from all others; 0.5 is chance."""
    above = logprobs_of(policy, planted, engine)
    below = logprobs_of(reference, planted, engine)
    credits = [
        [ours - theirs for ours, theirs in zip(*pair, strict=True)]
        for pair in zip(above, below, strict=True)
    ]
    return auc(credits, planted.places)


def auc(credits: Sequence[Sequence[float]], places: Sequence[int]) -> float:
    """The share of (planted, other) tokens of which the planted one has the lower credit; ties half.

    By the ranks of all tokens together (Mann-Whitney).
    """
    flat = [credit for row in credits for credit in row]
    is_planted = [
        at == place for row, place in zip(credits, places, strict=True) for at in range(len(row))
    ]
    # the lowest credit has the highest rank
    ranks = rankdata([-credit for credit in flat])
    count = sum(is_planted)
    others = len(flat) - count
    total = sum(rank for rank, yes in zip(ranks, is_planted, strict=True) if yes)
    return float((total - count * (count + 1) / 2) / (count * others))


@torch.no_grad()
def logprobs_of(directory: Path, planted: Planted, engine: TorchEngine) -> list[list[float]]:
    """log p of each response token under a model, response by response."""
    model = engine.frozen(load_causal_lm(directory))
    pad_id = int(model.config.pad_token_id or 0)
    found: list[list[float]] = []
    for start in range(0, len(planted.places), _BATCH):
        rows = slice(start, start + _BATCH)
        responses = planted.responses[rows]
        batch = pad_responses(planted.prompts[rows], responses, pad_id).to(engine.device)
        with engine.autocast():
            logits = target_logits(model, hidden_states(model, batch), batch)
        logprobs = token_logprobs(logits, target_tokens(batch))
        parts = logprobs.split([len(response) for response in responses])
        found += [part.tolist() for part in parts]
    return found
