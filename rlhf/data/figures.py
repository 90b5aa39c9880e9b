"""What `metrics/prepare.json` holds."""

from collections import Counter
from collections.abc import Mapping, Sequence

from rlhf.common.metrics import Value
from rlhf.data.encode import TableRow
from rlhf.data.ledger import Ledger
from rlhf.data.tables import OPTIONAL_TABLES, SPLITS


def rows_of_split(rows: Sequence[TableRow], split: str) -> list[TableRow]:
    """The rows of a table that are in one split."""
    return [row for row in rows if row["split"] == split]


def summary(tables: Mapping[str, Sequence[TableRow]], ledger: Ledger) -> dict[str, Value]:
    """What `metrics/prepare.json` holds.

    Rows by table, split and kind; what was dropped and why; lengths in tokens.
    """
    splits = frozenset(split for names in SPLITS.values() for split in names)
    return {
        **_row_counts(tables),
        **_preference_accuracies(tables["preferences"]),
        **_mean_lengths(tables),
        **_step_figures(tables["steps"]),
        **_reference_counts(tables["prompts"]),
        **ledger.summary(splits),
    }


def _row_counts(tables: Mapping[str, Sequence[TableRow]]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for table, rows in tables.items():
        if table in OPTIONAL_TABLES and not rows:
            continue
        for split in SPLITS[table]:
            split_rows = rows_of_split(rows, split)
            values[f"{table}_{split}"] = len(split_rows)
            for kind, count in Counter(row["kind"] for row in split_rows).items():
                values[f"{table}_{split}_{kind}"] = count
    return values


def _preference_accuracies(pairs: Sequence[TableRow]) -> dict[str, Value]:
    values: dict[str, Value] = {"longer_wins_accuracy": longer_wins_accuracy(pairs)}
    for kind in ("helpful", "harmless"):
        pairs_of_kind = [row for row in pairs if row["kind"] == kind]
        values[f"longer_wins_accuracy_{kind}"] = longer_wins_accuracy(pairs_of_kind)
    return values


def longer_wins_accuracy(pairs: Sequence[TableRow]) -> float | None:
    """Share of pairs whose chosen answer has more characters than the rejected one.

    Equal lengths count half; None without pairs.
    """
    if not pairs:
        return None
    differences = [len(row["chosen"]) - len(row["rejected"]) for row in pairs]
    longer = sum(difference > 0 for difference in differences)
    equal = sum(difference == 0 for difference in differences)
    return (longer + 0.5 * equal) / len(pairs)


def _mean_lengths(tables: Mapping[str, Sequence[TableRow]]) -> dict[str, Value]:
    pairs = tables["preferences"]
    return {
        "sft_tokens_mean": _mean_length(tables["sft"], "input_ids"),
        "preferences_prompt_tokens_mean": _mean_length(pairs, "prompt_ids"),
        "preferences_chosen_tokens_mean": _mean_length(pairs, "chosen_ids"),
        "preferences_rejected_tokens_mean": _mean_length(pairs, "rejected_ids"),
        "prompts_tokens_mean": _mean_length(tables["prompts"], "prompt_ids"),
    }


def _step_figures(solutions: Sequence[TableRow]) -> dict[str, Value]:
    """Of the table `steps`, where it has rows."""
    if not solutions:
        return {}
    labels = [label for row in solutions for label in row["labels"]]
    known = [label for label in labels if label is not None]
    return {
        "steps_response_tokens_mean": _mean_length(solutions, "response_ids"),
        "steps_per_solution_mean": _mean_length(solutions, "step_ends"),
        "steps_labelled": len(known),
        "steps_label_mean": sum(known) / len(known),
    }


def _reference_counts(prompts: Sequence[TableRow]) -> dict[str, Value]:
    """Prompts with a reference answer by split, where there are any."""
    splits = Counter(row["split"] for row in prompts if row.get("reference") is not None)
    return {f"prompts_{split}_references": count for split, count in sorted(splits.items())}


def _mean_length(rows: Sequence[TableRow], column: str) -> float | None:
    if not rows:
        return None
    return sum(len(row[column]) for row in rows) / len(rows)
