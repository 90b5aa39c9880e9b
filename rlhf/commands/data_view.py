"""How `rlhf doctor --data` is printed."""

from rich.console import Console
from rich.text import Text

from rlhf.commands.data_check import DataFile, DataReport
from rlhf.commands.data_counts import ShownRow
from rlhf.data.encode import MENDED_BY
from rlhf.data.files import UNREAD_HINT
from rlhf.data.ledger import counted
from rlhf.data.sources.base import named_files

# Around what is trained on.
OPEN, CLOSE = "⟦", "⟧"
# Characters of a part that are shown: so many of its beginning and of its end.
_HALF = 600


def print_report(console: Console, report: DataReport) -> None:
    """Print all of a report; text of the data stands there escaped."""
    lines = [
        *_file_lines(report),
        *(f"recognised: {rows:,} x {shape}" for shape, rows in report.shapes.items()),
        *_use_lines(report),
        *_loss_lines(report),
        *(f"prepare stops: {told}" for told in report.refused),
    ]
    for line in lines:
        _print(console, visible(line))
    _print_rows(console, report)


def visible(text: str) -> str:
    r"""Text whose control and invisible characters are written out (\x1b); line feeds stay."""
    return "".join(
        character
        if character == "\n" or character.isprintable()
        else character.encode("unicode_escape").decode()
        for character in text
    )


def _file_lines(report: DataReport) -> list[str]:
    lines = [f"{report.address}: {len(report.files)} data file(s)"]
    lines += [_file_line(file) for file in report.files]
    if report.unread:
        lines.append(f"not read: {named_files(report.unread)}; {UNREAD_HINT}")
    return lines


def _file_line(file: DataFile) -> str:
    split = f", published as {file.split}" if file.split else ""
    fault = f"; {file.fault}" if file.fault else ""
    return f"  {file.name}: {file.format or 'unknown format'}, {counted(file.rows)}{split}{fault}"


def _use_lines(report: DataReport) -> list[str]:
    serves = [f"{use} {rows:,}" for use, rows in report.serves.items() if rows]
    listed = f" (listed in data.{', '.join(report.listed)})" if report.listed else ""
    lines = [
        f"usable: {counted(report.usable)}"
        + (f"; for data.{', '.join(serves)}{listed}" if serves else "")
    ]
    for use, lost in report.lost.items():
        reasons = ", ".join(f"{rows:,} x {reason}" for reason, rows in lost.items())
        lines.append(f"of these data.{use} does not keep: {reasons}")
    for dropped in report.dropped:
        hint = f" ({dropped.hint})" if dropped.hint else ""
        lines.append(f"not usable: {dropped.rows:,} x {dropped.reason}, as {dropped.example}{hint}")
    return lines


def _loss_lines(report: DataReport) -> list[str]:
    lines = [_note_line(report, note) for note in report.notes]
    lines += report.told
    lines += [
        f"data.columns.{name}: no row here has such a column; prepare refuses it if none anywhere has"
        for name in report.unmapped
    ]
    return lines


def _note_line(report: DataReport, note: str) -> str:
    example = f", {report.rewritten[note]}" if note in report.rewritten else ""
    hint = f" ({MENDED_BY[note]})" if note in MENDED_BY else ""
    return f"{note}: {counted(report.notes[note])}{example}{hint}"


def _print_rows(console: Console, report: DataReport) -> None:
    if not report.shown:
        return
    if report.encoded:
        told = f"rows as the model reads them, by models/base; {OPEN}what is trained on{CLOSE} is marked"
    else:
        told = (
            "rows as messages: models/base is not there yet, so neither tokens nor the template were "
            "tried (`dvc repro fetch` brings it)"
        )
    _print(console, told)
    for row in report.shown:
        _print_row(console, row)


def _print_row(console: Console, row: ShownRow) -> None:
    _print(console, f"\n-- {visible(row.place)}: {row.shape}")
    for passage in row.passages:
        text = Text(f"{passage.title}: ", style="dim")
        for part, is_trained in passage.parts:
            shown = visible(_shortened(part))
            text.append(
                f"{OPEN}{shown}{CLOSE}" if is_trained else shown, "bold" if is_trained else ""
            )
        console.print(text, soft_wrap=True)


def _shortened(text: str) -> str:
    left_out = len(text) - 2 * _HALF
    if left_out <= 0:
        return text
    return f"{text[:_HALF]} [... {left_out:,} more characters ...] {text[-_HALF:]}"


def _print(console: Console, line: str) -> None:
    # rich would colour numbers and read brackets as styles
    console.print(Text(line), soft_wrap=True)
