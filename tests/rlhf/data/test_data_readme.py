"""The README of the data: its example works as it stands there, its lists are complete."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf import data, registry
from rlhf.common.errors import SourceError
from rlhf.common.files import read_json, tree_sha256
from rlhf.data.fetch import check_addresses, fetch
from rlhf.data.ledger import UNWANTED, Ledger
from rlhf.data.load import load_rows
from rlhf.data.records import Dialogue, Message, Row
from rlhf.data.uses import USES, raw_directory
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace
from tests.readme_examples import python_blocks, register

FOLDER = Path(str(data.__file__)).parent
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
SOURCE, ENTRY, TEST = python_blocks("rlhf/data/README.md")


@pytest.fixture
def csv_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source of the example, and its line in the registry."""
    folder = tmp_path / "sources"
    folder.mkdir()
    register(monkeypatch, registry.SOURCES, SOURCE, ENTRY, folder)


def example_tests() -> dict[str, Callable[[Path], None]]:
    namespace: dict[str, Any] = {}
    exec(compile(TEST, "README.md", "exec"), namespace)
    return {name: value for name, value in namespace.items() if name.startswith("test_")}


@pytest.mark.usefixtures("csv_source")
@pytest.mark.parametrize("name", example_tests())
def test_the_readme_tests_pass(name: str, tmp_path: Path) -> None:
    example_tests()[name](tmp_path)


@pytest.mark.usefixtures("csv_source")
def test_the_stage_fetches_with_the_example(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    workspace = Workspace(tmp_path)
    settings = make_settings(sft=["starter", "csv:faq.csv"])
    with pytest.raises(SourceError, match=r"^data\.sft: csv:faq\.csv: .*faq\.csv is no file"):
        check_addresses(settings, workspace)

    (tmp_path / "faq.csv").write_text("question,answer\nWhy?,Because.\n", encoding="utf-8")
    fetch(settings, workspace)
    directory = raw_directory(workspace.raw, "sft", 1)
    summary = read_json(workspace.metrics("fetch"))
    assert summary["sft_1_source"] == "csv:faq.csv"
    assert summary["sft_1_sha256"] == tree_sha256(directory)

    ledger = Ledger()
    (row,) = load_rows(directory, "sft", 1, ledger)
    dialogue = Dialogue((Message("user", "Why?"), Message("assistant", "Because.")))
    assert row == Row(dialogue, "helpful", "sft", 1, "faq.jsonl", 1, None)
    assert not ledger.counts


@pytest.mark.usefixtures("csv_source")
def test_the_example_serves_no_models(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings()
    model = settings.model.model_copy(update={"source": "csv:faq.csv"})
    with pytest.raises(SourceError, match=r"^model\.source: csv:faq\.csv: .* brings no models"):
        check_addresses(settings.model_copy(update={"model": model}), Workspace())


def test_every_kind_of_address_and_every_use_is_described() -> None:
    for name in (*registry.SOURCES, *USES):
        assert re.search(rf"`{name}[`:]", TEXT), name


def test_every_reason_is_listed_where_it_belongs() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in sorted(FOLDER.rglob("*.py")))
    # those that are no plain argument of BrokenRow
    others = {"empty_answer", "empty_message", "empty_step", "empty_text", "not_utf8"}
    others |= {"prompt_too_long", "special_token", "separator_in_step"}
    others |= {"template_refuses_system", "template_refuses_roles"}
    others |= {"template_rewrites_steps"}
    raised = others | set(re.findall(r'BrokenRow\(\s*"(\w+)"', code)) - UNWANTED
    broken, unwanted = re.findall(
        r"^- \*\*(?:broken|not wanted)\*\*(.*?)(?=^- |^$)", TEXT, re.S | re.M
    )
    assert raised == reasons_in(broken)
    assert reasons_in(unwanted) == UNWANTED


def reasons_in(text: str) -> set[str]:
    """Words in backticks that can be reasons: settings and paths have dots and signs."""
    return set(re.findall(r"`([a-z0-9_]+)`", text))
