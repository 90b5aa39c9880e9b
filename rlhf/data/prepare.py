"""The stage `prepare`: raw files to tables of tokens, with an account of every row."""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.batches.tables import write_table
from rlhf.common.errors import DataError, ModelError
from rlhf.common.files import staged_directory, write_json
from rlhf.common.metrics import Value, write_summary
from rlhf.core.tokenizers import read_tokenizer
from rlhf.data.encode import Outcome, TableEncoder, take, text_windows
from rlhf.data.ledger import REREAD, Ledger
from rlhf.data.load import load_rows
from rlhf.data.records import Pair, Row
from rlhf.data.split import Assignment, Candidate, assign, candidates, check_limits
from rlhf.data.tables import SPLITS
from rlhf.data.tokens import ChatEncoder
from rlhf.data.uses import USES, addresses, raw_directory
from rlhf.settings import Settings
from rlhf.workspace import Workspace

Rows = list[dict[str, Any]]

DIALOGUES = ("sft", "preferences", "prompts")
TRIED = 64  # rows on which the chat template is tried out

log = logging.getLogger(__name__)


def prepare(settings: Settings, workspace: Workspace) -> None:
    """Write `data/prepared/*.parquet`, `metrics/prepare.json` and `metrics/prepare_details.json`.

    Raises DataError for unusable files, for broken rows under `data.broken: refuse`, and when nothing is left to train on;
    after the last two, `.failures/prepare_details.json` tells what became of every row.
    """
    data = settings.data
    check_limits(data.limits)
    account(workspace).unlink(missing_ok=True)  # of an earlier failure
    encoder = ChatEncoder(_tokenizer(workspace), data.max_prompt_tokens, data.max_response_tokens)
    ledger = Ledger()

    # 1. Files to rows, checked row by row.
    rows = {use: _load(settings, workspace, use, ledger) for use in USES}
    # 2. Every opening gets its one split.
    assignment = assign(rows, data, settings.seed)
    # 3. Rows to tokens, up to the limits; what is held out first.
    answered = [row.record for row in rows["preferences"][:TRIED] if isinstance(row.record, Pair)]
    encoder.check_boundaries(
        [pair.messages for pair in answered], [pair.chosen for pair in answered]
    )
    tables = _tables(rows, assignment, encoder, ledger)
    mark_unseen_openings(tables)
    # 4. Broken rows and empty splits are told before anything is written.
    if ledger.broken:
        log.warning(
            "broken rows: %d, for example %s; %s", len(ledger.broken), ledger.first_broken(), REREAD
        )
    try:
        if data.broken == "refuse":
            ledger.refuse_broken()
        check_not_empty(tables, account(workspace))
    except DataError:
        write_json(account(workspace), ledger.details())
        raise
    with staged_directory(workspace.prepared) as directory:
        for table, content in tables.items():
            write_table(directory, table, content)
        write_json(workspace.details("prepare"), ledger.details())
        write_summary(workspace.metrics("prepare"), summary(tables, ledger))


def _tokenizer(workspace: Workspace) -> PreTrainedTokenizerBase:
    directory = workspace.model("base")
    if not (directory / "tokenizer_config.json").is_file():
        raise ModelError(f"{directory}: no base model; run the stage fetch first (dvc repro)")
    return read_tokenizer(directory)


def _load(settings: Settings, workspace: Workspace, use: str, ledger: Ledger) -> list[Row]:
    places = range(len(addresses(settings, use)))
    rows = [
        row
        for index in places
        for row in load_rows(
            raw_directory(workspace.raw, use, index), use, index, ledger, alone=len(places) == 1
        )
    ]
    log.info("%s: rows read: %d", use, len(rows))
    return rows


def _tables(
    rows: Mapping[str, Sequence[Row]], assignment: Assignment, encoder: ChatEncoder, ledger: Ledger
) -> dict[str, Rows]:
    """Encode split by split: no row may open as one of an earlier split does once both are shortened."""
    chosen = {table: candidates(table, rows, assignment, ledger) for table in SPLITS}
    tables: dict[str, Rows] = {table: [] for table in SPLITS}
    held_out, gold = assignment.test_openings, frozenset[str]()
    for split in ("test", "validation", "gold", "train"):
        for table, content in tables.items():
            # what gold learns from is kept from the other reward model alone
            taken = held_out | gold if table == "preferences" else held_out
            encode = TableEncoder(
                encoder, assignment.data, taken if split != "test" else frozenset()
            )
            content += _encoded(
                table, [one for one in chosen[table] if one.split == split], encode, ledger
            )
        found = frozenset(
            row["opening"] for table in DIALOGUES for row in tables[table] if row["split"] == split
        )
        held_out, gold = (held_out, found) if split == "gold" else (held_out | found, gold)
    for table, content in tables.items():
        counts = Counter(str(row["split"]) for row in content)
        log.info("%s: %s", table, ", ".join(f"{split} {count}" for split, count in counts.items()))
    return tables


def _encoded(table: str, chosen: Sequence[Candidate], encode: TableEncoder, ledger: Ledger) -> Rows:
    if table == "pretrain":
        return text_windows(encode.encoder, chosen, encode.data, ledger)
    choices: dict[str, Callable[[Sequence[Candidate]], list[Outcome]]] = {
        "sft": encode.sft,
        "preferences": encode.preferences,
        "prompts": encode.prompts,
    }
    start = f"{table}."
    limits = {
        key.removeprefix(start): limit
        for key, limit in encode.data.limits.items()
        if key.startswith(start)
    }
    return take(chosen, limits, choices[table], ledger)


def mark_unseen_openings(tables: Mapping[str, Rows]) -> None:
    """Set `unseen_opening` of each preference row: no row that anything is trained on opens as it does.

    The split by openings makes that so for every test row; this looks at the tables themselves.
    """
    rows = [row for table in DIALOGUES for row in tables[table]]
    trained = {row["opening"] for row in rows if row["split"] in ("train", "gold")}
    for row in tables["preferences"]:
        row["unseen_opening"] = row["opening"] not in trained


def account(workspace: Workspace) -> Path:
    """Where a prepare that fails tells what became of every row."""
    return workspace.failures / "prepare_details.json"


def check_not_empty(tables: Mapping[str, Rows], account: Path) -> None:
    """Refuse tables that nothing can be trained or judged on; raises DataError that points to the `account` of all rows."""
    needed = [(table, "train") for table in tables] + [("prompts", "test")]
    needed += [("preferences", "gold"), ("preferences", "test")]
    for table, split in needed:
        if not any(row["split"] == split for row in tables[table]):
            told = f"{account} tells what became of each row; data.* has the limits"
            raise DataError(f"data.{table}", f"no rows left for {split}; {told}")


def longer_wins_accuracy(rows: Rows) -> float | None:
    """Share of pairs whose chosen answer has more characters than the rejected one; equal lengths count half."""
    if not rows:
        return None
    differences = [len(row["chosen"]) - len(row["rejected"]) for row in rows]
    return sum(
        1.0 if difference > 0 else 0.5 * (difference == 0) for difference in differences
    ) / len(rows)


def summary(tables: Mapping[str, Rows], ledger: Ledger) -> dict[str, Value]:
    """Give `metrics/prepare.json`: rows by table, split and kind; what was dropped and why; lengths."""
    values: dict[str, Value] = {}
    for table, rows in tables.items():
        for split in SPLITS[table]:
            own = [row for row in rows if row["split"] == split]
            values[f"{table}_{split}"] = len(own)
            for kind, count in sorted(Counter(row["kind"] for row in own).items()):
                values[f"{table}_{split}_{kind}"] = count
    pairs = tables["preferences"]
    values["longer_wins_accuracy"] = longer_wins_accuracy(pairs)
    for kind in ("helpful", "harmless"):
        values[f"longer_wins_accuracy_{kind}"] = longer_wins_accuracy(
            [row for row in pairs if row["kind"] == kind]
        )
    values["sft_tokens_mean"] = _mean([len(row["input_ids"]) for row in tables["sft"]])
    for part in ("prompt", "chosen", "rejected"):
        values[f"preferences_{part}_tokens_mean"] = _mean(
            [len(row[f"{part}_ids"]) for row in pairs]
        )
    values["prompts_tokens_mean"] = _mean([len(row["prompt_ids"]) for row in tables["prompts"]])
    splits = frozenset(split for names in SPLITS.values() for split in names)
    return {**values, **ledger.summary(splits)}


def _mean(numbers: Sequence[int]) -> float | None:
    return sum(numbers) / len(numbers) if numbers else None
