"""The stage `prepare`: raw files to tables of tokens, with an account of every row."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf.batches.tables import write_table
from rlhf.common.errors import DataError, ModelError
from rlhf.common.files import staged_directory, write_json
from rlhf.common.metrics import Value, write_summary
from rlhf.core.tokenizers import read_tokenizer
from rlhf.data.encode import (
    DropReason,
    EncodedRow,
    TableEncoder,
    TableRow,
    encode_up_to_limits,
    pack_texts,
)
from rlhf.data.ledger import REFETCH_HINT, Ledger
from rlhf.data.load import load_rows
from rlhf.data.records import Pair, Row
from rlhf.data.solutions import SolutionEncoder
from rlhf.data.split import Candidate, SplitAssignment, assign_splits, candidates, check_limits
from rlhf.data.tables import OPTIONAL_TABLES, SPLITS
from rlhf.data.tokens import ChatEncoder
from rlhf.data.uses import USES, addresses, raw_directory
from rlhf.settings import Settings
from rlhf.workspace import Workspace

DIALOGUE_TABLES = ("sft", "preferences", "prompts", "steps")
# What is held out comes first: later splits leave its openings alone.
ENCODING_ORDER = ("test", "validation", "gold", "train")
# Pairs on which the chat template is tried out.
BOUNDARY_CHECKS = 64

log = logging.getLogger(__name__)


def prepare(settings: Settings, workspace: Workspace) -> None:
    """Write `data/prepared/*.parquet`, `metrics/prepare.json` and `metrics/prepare_details.json`.

    Raises DataError for unusable files, for broken rows under `data.broken: refuse`, and when
    nothing is left to train on. After the last two, `.failures/prepare_details.json` tells what
    became of every row.
    """
    data = settings.data
    check_limits(data.limits)
    # of an earlier failure
    failure_details(workspace).unlink(missing_ok=True)
    encoder = ChatEncoder(_tokenizer(workspace), data.max_prompt_tokens, data.max_response_tokens)
    ledger = Ledger()

    # 1. Files to rows, checked row by row.
    rows = {use: _load(settings, workspace, use, ledger) for use in USES}

    # 2. Every opening gets its one split.
    assignment = assign_splits(rows, data, settings.seed)

    # 3. Rows to tokens, up to the limits.
    _check_chat_template(encoder, rows["preferences"])
    tables = _encode_tables(rows, assignment, encoder, ledger)
    mark_unseen_openings(tables)

    # 4. Broken rows and empty splits are reported before anything is written.
    try:
        _check_account(settings, workspace, tables, ledger)
    except DataError:
        write_json(failure_details(workspace), ledger.details())
        raise

    # 5. The tables appear once everything else is written.
    with staged_directory(workspace.prepared) as directory:
        for table, table_rows in tables.items():
            write_table(directory, table, table_rows)
        write_json(workspace.details("prepare"), ledger.details())
        write_summary(workspace.metrics("prepare"), summary(tables, ledger))


def failure_details(workspace: Workspace) -> Path:
    """Where a prepare that fails writes what became of every row."""
    return workspace.failures / "prepare_details.json"


def _tokenizer(workspace: Workspace) -> PreTrainedTokenizerBase:
    directory = workspace.model("base")
    if not (directory / "tokenizer_config.json").is_file():
        raise ModelError(f"{directory}: no base model; run the stage fetch first (dvc repro)")
    return read_tokenizer(directory)


def _load(settings: Settings, workspace: Workspace, use: str, ledger: Ledger) -> list[Row]:
    count = len(addresses(settings, use))
    rows: list[Row] = []
    for index in range(count):
        directory = raw_directory(workspace.raw, use, index)
        rows += load_rows(directory, use, index, ledger, only_address=count == 1)
    log.info("%s: rows read: %d", use, len(rows))
    return rows


def _check_chat_template(encoder: ChatEncoder, rows: Sequence[Row]) -> None:
    """Try the template out on some pairs; raises ModelError."""
    pairs = [row.record for row in rows[:BOUNDARY_CHECKS] if isinstance(row.record, Pair)]
    encoder.check_boundaries([pair.messages for pair in pairs], [pair.chosen for pair in pairs])


def _check_account(
    settings: Settings,
    workspace: Workspace,
    tables: Mapping[str, Sequence[TableRow]],
    ledger: Ledger,
) -> None:
    if ledger.broken:
        log.warning(
            "broken rows: %d, for example %s; %s",
            len(ledger.broken),
            ledger.first_broken(),
            REFETCH_HINT,
        )
    if settings.data.broken == "refuse":
        ledger.refuse_broken()
    unused = [table for table in OPTIONAL_TABLES if not addresses(settings, table)]
    check_not_empty(tables, unused, failure_details(workspace))


def check_not_empty(
    tables: Mapping[str, Sequence[TableRow]], unused: Sequence[str], details: Path
) -> None:
    """Refuse tables that nothing can be trained or judged on, but for those that nobody asked for.

    Raises DataError that points to the file of `details`.
    """
    # what training, the judges and the gold model cannot do without
    needed = [(table, "train") for table in tables if table not in unused]
    needed += [("prompts", "test"), ("preferences", "gold"), ("preferences", "test")]
    needed += [("steps", "test")] if "steps" not in unused else []
    for table, split in needed:
        if not _rows_of_split(tables[table], split):
            raise DataError(
                f"data.{table}",
                f"no rows left for {split}; {details} tells what became of each row; "
                "data.* has the limits",
            )


# -- rows to tables --


def _encode_tables(
    rows: Mapping[str, Sequence[Row]],
    assignment: SplitAssignment,
    encoder: ChatEncoder,
    ledger: Ledger,
) -> dict[str, list[TableRow]]:
    """Encode split by split, each without the openings of the splits before it.

    Shortened prompts open with a later turn, which may be the opening of another row.
    """
    table_candidates = {table: candidates(table, rows, assignment, ledger) for table in SPLITS}
    tables: dict[str, list[TableRow]] = {table: [] for table in SPLITS}
    held_out = assignment.test_openings
    gold: frozenset[str] = frozenset()

    for split in ENCODING_ORDER:
        for table, table_rows in tables.items():
            taken = held_out
            # what gold learns from is kept from the other reward model, and from it alone
            if table == "preferences":
                taken |= gold
            # test rows are where held-out openings belong
            if split == "test":
                taken = frozenset()
            chosen = [
                candidate for candidate in table_candidates[table] if candidate.split == split
            ]
            table_encoder = TableEncoder(encoder, assignment.data, taken)
            table_rows += _encode_table(table, chosen, table_encoder, ledger)

        openings = _openings(tables, split)
        if split == "gold":
            gold = openings
        else:
            held_out |= openings

    for table, table_rows in tables.items():
        counts = Counter(str(row["split"]) for row in table_rows)
        log.info("%s: %s", table, ", ".join(f"{split} {count}" for split, count in counts.items()))
    return tables


def _encode_table(
    table: str, chosen: Sequence[Candidate], table_encoder: TableEncoder, ledger: Ledger
) -> list[TableRow]:
    data = table_encoder.data
    # limits of plain text count windows, not rows
    if table == "pretrain":
        return pack_texts(table_encoder.encoder, chosen, data, ledger)

    encoders: dict[str, Callable[[Sequence[Candidate]], list[EncodedRow | DropReason]]] = {
        "sft": table_encoder.sft,
        "preferences": table_encoder.preferences,
        "prompts": table_encoder.prompts,
        "steps": partial(_encode_solutions, table_encoder),
    }
    prefix = f"{table}."
    limits = {
        key.removeprefix(prefix): limit
        for key, limit in data.limits.items()
        if key.startswith(prefix)
    }
    return encode_up_to_limits(chosen, limits, encoders[table], ledger)


def _encode_solutions(
    table_encoder: TableEncoder, rows: Sequence[Candidate]
) -> list[EncodedRow | DropReason]:
    # a separator that the tokenizer cannot write is no fault where there are no steps
    return SolutionEncoder(table_encoder)(rows) if rows else []


def _openings(tables: Mapping[str, Sequence[TableRow]], *splits: str) -> frozenset[str]:
    """The openings of some splits, over all tables of dialogues."""
    rows = [row for table in DIALOGUE_TABLES for row in tables[table]]
    return frozenset(row["opening"] for row in rows if row["split"] in splits)


def mark_unseen_openings(tables: Mapping[str, Sequence[TableRow]]) -> None:
    """Set `unseen_opening` of each preference row: no row that is trained on opens as it does.

    The split by openings makes that so for every test row; this looks at the tables themselves.
    """
    # the gold model is trained too
    trained = _openings(tables, "train", "gold")
    for row in tables["preferences"]:
        row["unseen_opening"] = row["opening"] not in trained


def _rows_of_split(rows: Sequence[TableRow], split: str) -> list[TableRow]:
    return [row for row in rows if row["split"] == split]


# -- figures --


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
        **ledger.summary(splits),
    }


def _row_counts(tables: Mapping[str, Sequence[TableRow]]) -> dict[str, Value]:
    values: dict[str, Value] = {}
    for table, rows in tables.items():
        if table in OPTIONAL_TABLES and not rows:
            continue
        for split in SPLITS[table]:
            split_rows = _rows_of_split(rows, split)
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


def _mean_length(rows: Sequence[TableRow], column: str) -> float | None:
    if not rows:
        return None
    return sum(len(row[column]) for row in rows) / len(rows)
