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
from rlhf.common.metrics import write_summary
from rlhf.core.tokenizers import read_tokenizer
from rlhf.data.assign import assign_splits, with_single_text_cut
from rlhf.data.encode import (
    DropReason,
    EncodedRow,
    TableEncoder,
    TableRow,
    encode_up_to_limits,
    pack_texts,
)
from rlhf.data.figures import rows_of_split, summary
from rlhf.data.ledger import REFETCH_HINT, Ledger
from rlhf.data.load import load_rows
from rlhf.data.needed import NEEDED_SPLITS, no_rows_left, use_that_fills
from rlhf.data.records import Pair, Row
from rlhf.data.rules import rules_of
from rlhf.data.shapes.table import check_columns
from rlhf.data.solutions import SolutionEncoder
from rlhf.data.split import Candidate, SplitAssignment, candidates, check_limits
from rlhf.data.tables import OPTIONAL_TABLES, SPLITS
from rlhf.data.tokens import ChatEncoder
from rlhf.data.uses import USES, addresses, raw_directory
from rlhf.data.window import check_lengths
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
    check_columns(data.columns)
    # of an earlier failure
    failure_details(workspace).unlink(missing_ok=True)
    tokenizer = _tokenizer(workspace)
    check_lengths(settings, workspace.model("base"))
    encoder = ChatEncoder(tokenizer, data.max_prompt_tokens, data.max_response_tokens)
    ledger = Ledger()

    # 1. Files to rows, checked row by row.
    rows = {use: _load(settings, workspace, use, ledger) for use in USES}
    ledger.check_mapped(data.columns)
    _tell(rows["preferences"], ledger)

    # 2. Every opening gets its one split.
    rows["pretrain"] = with_single_text_cut(rows["pretrain"], data, ledger)
    assignment = assign_splits(rows, data, settings.seed)

    # 3. Rows to tokens, up to the limits.
    _check_chat_template(encoder, rows["preferences"])
    tables = _encode_tables(rows, assignment, encoder, ledger)
    mark_unseen_openings(tables)

    # 4. Broken rows and empty splits are reported before anything is written.
    try:
        _check_account(settings, workspace, rows, tables, ledger)
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
    listed = addresses(settings, use)
    rules = rules_of(settings.data)
    rows: list[Row] = []
    for index, address in enumerate(listed):
        directory = raw_directory(workspace.raw, use, index)
        only = len(listed) == 1
        rows += load_rows(directory, use, index, ledger, address, only_address=only, rules=rules)
    # nothing is said of what nobody asked for
    if listed:
        log.info("%s: rows read: %d", use, len(rows))
    return rows


def _tell(pairs: Sequence[Row], ledger: Ledger) -> None:
    """Log what is not as it was written, and pairs that contradict each other."""
    for line in ledger.told():
        log.info(line)
    count = contradictions([row.record for row in pairs if isinstance(row.record, Pair)])
    ledger.notes["preferences", "contradicting"] += count
    if count:
        log.warning("preferences: %d pairs prefer what another pair rejects", count)


def contradictions(pairs: Sequence[Pair]) -> int:
    """How many pairs prefer what another pair, to the same messages, rejects."""
    known = set(pairs)
    return sum(Pair(pair.messages, pair.rejected, pair.chosen) in known for pair in pairs)


def _check_chat_template(encoder: ChatEncoder, rows: Sequence[Row]) -> None:
    """Try the template out on some pairs; raises ModelError."""
    pairs = [
        row.record
        for row in rows[:BOUNDARY_CHECKS]
        if isinstance(row.record, Pair) and encoder.refusal(row.record.messages) is None
    ]
    encoder.check_boundaries([pair.messages for pair in pairs], [pair.chosen for pair in pairs])


def _check_account(
    settings: Settings,
    workspace: Workspace,
    rows: Mapping[str, Sequence[Row]],
    tables: Mapping[str, Sequence[TableRow]],
    ledger: Ledger,
) -> None:
    if ledger.broken:
        log.warning(
            "broken rows: %d, for example %s; %s",
            ledger.broken_rows,
            ledger.first_broken(),
            REFETCH_HINT,
        )
    if settings.data.broken == "refuse":
        ledger.refuse_broken()
    unused = [table for table in OPTIONAL_TABLES if not addresses(settings, table)]
    # without a gold model none of its pairs are set aside
    if not settings.data.gold_fraction:
        unused.append("preferences.gold")
    check_not_empty(rows, tables, unused, ledger, failure_details(workspace))


def check_not_empty(
    rows: Mapping[str, Sequence[Row]],
    tables: Mapping[str, Sequence[TableRow]],
    unused: Sequence[str],
    ledger: Ledger,
    details: Path,
) -> None:
    """Refuse tables that nothing can be trained or judged on, but for those that nobody asked for.

    rows: what was read, by use
    unused: tables, or splits of them (preferences.gold), that nobody asked for
    Raises DataError that points to the file of `details`.
    """
    # what training, the judges and the gold model cannot do without
    for table, splits in NEEDED_SPLITS.items():
        for split in () if table in unused else splits:
            is_wanted = f"{table}.{split}" not in unused
            if is_wanted and not rows_of_split(tables[table], split):
                use = use_that_fills(table, split)
                empty = no_rows_left(
                    table, split, rows[use], some_kept=bool(tables[table]), name=ledger.name
                )
                raise DataError(
                    f"data.{table}",
                    f"{empty}; where most were dropped, the log has "
                    f"the reasons, and {details} what became of each row",
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
        kept = ", ".join(f"{split} {count}" for split, count in counts.items())
        lost = ledger.losses(table)
        if kept or lost:
            log.info("%s: %s%s", table, kept or "no rows", lost)
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
