"""The README's judge is one file and one line: it is installed from there, and judges."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.common.errors import SettingsError
from rlhf.evaluation.both_orders import judge_both_orders
from rlhf.evaluation.judges import make_judge
from rlhf.evaluation.types import Case
from rlhf.registry import JUDGES
from rlhf.settings import settings_from
from rlhf.settings.reads import switched_off
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace
from tests.readme_examples import python_blocks, register
from tests.source_tree import ROOT

README = "rlhf/evaluation/README.md"
MODULE = "rlhf.evaluation.judges.concise"


SOURCE, LINE, TEST = python_blocks(README)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The judge of the example, and its line in the registry."""
    register(monkeypatch, JUDGES, SOURCE, LINE, tmp_path)


@pytest.mark.usefixtures("installed")
def test_the_judge_of_the_readme_judges_by_its_address(settings: Settings) -> None:
    content = settings.model_dump(mode="json", by_alias=True)
    content["evaluate"]["judges"] = ["gold", "concise:3"]
    judge = make_judge("concise:3", settings_from(content), Workspace())
    asked = ({"role": "user", "content": "Why?"},)
    texts = [("one two", "one two three four"), ("one two three four", "one"), ("one", "two")]
    cases = [
        Case(str(number), "helpful", asked, first, second, (), (), ())
        for number, (first, second) in enumerate(texts)
    ]
    found = judge_both_orders(judge, cases)
    assert [judgement.outcome for judgement in found] == ["win", "lose", "tie"]
    assert (judge.name, judge.facts()) == ("concise", {"longest": 3})
    # the same address ranks pairs
    content["ppo"] |= {**switched_off("online-dpo"), "algorithm": "online-dpo"}
    content["ppo"]["online_dpo"] = {
        **{"beta": 0.1, "loss": "sigmoid", "accumulate": False},
        "judge": "concise:3",
    }
    assert settings_from(content).ppo.pair_judge == "concise:3"
    with pytest.raises(SettingsError, match="expected concise:WORDS"):
        make_judge("concise:few", settings, Workspace())


@pytest.mark.usefixtures("installed")
def test_the_test_of_the_readme_passes() -> None:
    names: dict[str, Any] = {}
    exec(compile(TEST, README, "exec"), names)
    tests: list[Callable[[], None]] = [
        value for name, value in names.items() if name.startswith("test_")
    ]
    assert len(tests) == 1
    tests[0]()


def test_without_its_line_there_is_no_such_judge(settings: Settings) -> None:
    assert MODULE not in sys.modules
    with pytest.raises(SettingsError, match="no judge 'concise'"):
        make_judge("concise:3", settings, Workspace())


def test_the_judges_in_the_table_are_those_of_the_registry() -> None:
    text = (ROOT / README).read_text(encoding="utf-8")
    table = text.partition("| judge |")[2].partition("\n\n")[0]
    assert {name.partition(":")[0] for name in re.findall(r"^\| `([^`]+)`", table, re.M)} == set(
        JUDGES
    )
