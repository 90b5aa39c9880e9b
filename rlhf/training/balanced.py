"""As many helpful as harmless pairs: `balance_kinds`."""

import numpy as np
import pandas as pd


def balanced(table: pd.DataFrame) -> pd.DataFrame:
    """Repeat the scarcer of helpful and harmless rows in turn until there are as many of both.

    Other kinds stay as they are. What makes an answer good in one kind can make it bad in the
    other, a refusal for example: the kind with more pairs would settle the sign for both.
    """
    parts = {str(kind): part for kind, part in table.groupby("kind", sort=True)}
    both = ("helpful", "harmless")
    if all(kind in parts for kind in both):
        most = max(len(parts[kind]) for kind in both)
        for kind in both:
            repeated = np.arange(most) % len(parts[kind])
            parts[kind] = parts[kind].iloc[repeated]
    return pd.concat(list(parts.values()), ignore_index=True)
