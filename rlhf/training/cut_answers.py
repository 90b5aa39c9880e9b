"""Chosen answers over the same ones cut off: what teaches a reward model that an answer has to end.

In pairs both answers are whole. A reward model that never saw another kind scores a response that ran
into the limit by what it has said so far, and a policy can be paid for not coming to an end.
"""

import pandas as pd
import torch


def cut_answers(pairs: pd.DataFrame, random: torch.Generator) -> pd.DataFrame:
    """The pairs with the chosen answer, cut off at a random place, as the rejected one.

    At least its first token stays and at least its last, the end, is lost. Answers of one token are
    left out.
    """
    table = pairs[pairs["chosen_ids"].map(len) > 1].reset_index(drop=True)
    cut = [
        ids[: int(torch.randint(1, len(ids), (1,), generator=random))]
        for ids in table["chosen_ids"]
    ]
    return table.assign(rejected_ids=pd.Series(cut, dtype=object))


def with_cut_answers(pairs: pd.DataFrame, share: float, random: torch.Generator) -> pd.DataFrame:
    """The pairs, and behind them one of `cut_answers` for this share of them, drawn at random."""
    drawn = torch.randperm(len(pairs), generator=random)[: round(share * len(pairs))]
    cut = cut_answers(pairs.iloc[sorted(drawn.tolist())], random)
    return pd.concat([pairs, cut], ignore_index=True)
