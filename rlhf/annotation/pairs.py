"""The pairs that people compare, read from the table of judged comparisons."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rlhf.common.errors import DataError
from rlhf.evaluation.judges.people import pair_key


@dataclass(frozen=True)
class AnnotationPair:
    """Two responses to one dialogue. Which models wrote them is not known here: votes are blind."""

    key: str
    kind: str
    messages: tuple[dict[str, str], ...]
    first: str
    second: str


def read_pairs(comparisons: Path, challenger: str, baseline: str) -> list[AnnotationPair]:
    """The pairs of two models, each once however many judges compared it.

    Equal responses are left out: they are ties. Raises DataError if the table is missing, or
    does not compare these two.
    """
    if not comparisons.is_file():
        raise DataError(
            comparisons,
            "no such file; `dvc repro evaluate` writes it, "
            "`dvc checkout evaluate` restores that of an earlier run",
        )
    table = pd.read_parquet(comparisons)
    rows = table[(table["challenger"] == challenger) & (table["baseline"] == baseline)]
    if rows.empty:
        raise DataError(
            comparisons,
            f"no comparison of {challenger} with {baseline}; there are: {_compared(table)}",
        )

    # by key, because the table has a row for each judge
    pairs: dict[str, AnnotationPair] = {}
    for row in rows.to_dict("records"):
        messages = tuple(json.loads(row["messages"]))
        first = str(row["response_challenger"])
        second = str(row["response_baseline"])
        # nobody is asked about equal responses; the judge `people` knows that they are ties
        if first != second:
            key = pair_key(messages, first, second)
            pairs[key] = AnnotationPair(key, str(row["kind"]), messages, first, second)
    return list(pairs.values())


def _compared(table: pd.DataFrame) -> str:
    """The pairs of models in a table, as a user would name them to `rlhf annotate`."""
    models = zip(table["challenger"], table["baseline"], strict=True)
    return ", ".join(sorted({f"{challenger} {baseline}" for challenger, baseline in models}))
