"""Judges by their address: found in the registry, made from what follows the colon."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest
from scripted_server import endpoint

from rlhf.common.errors import JudgeError, RlhfError, SettingsError
from rlhf.evaluation.judges import make_judge
from rlhf.evaluation.judges.rules import RuleJudge
from rlhf.registry import JUDGES
from rlhf.settings import settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


def test_an_unknown_judge_is_named_with_the_known_ones(settings: Settings) -> None:
    with pytest.raises(
        SettingsError, match="no judge 'oracle'; there are: api, gold, people, rules"
    ):
        make_judge("oracle", settings, Workspace())


def test_each_kind_is_made_under_the_name_that_tables_have(
    trained: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "k")
    monkeypatch.setenv("VOTES", str(tmp_path))
    (tmp_path / "votes.jsonl").write_text("")
    content = settings.model_dump(mode="json", by_alias=True)
    one = endpoint("http://127.0.0.1:1/v1").model_dump(mode="json")
    content["evaluate"]["endpoints"] = {"gpt-4": one}
    workspace = Workspace(tmp_path)
    (tmp_path / "models").symlink_to(trained / "models")
    names = {
        address: make_judge(address, settings_from(content), workspace).name
        for address in ("gold", "rules", "api:gpt-4", "people:$VOTES/votes.jsonl")
    }
    assert list(names.values()) == ["gold", "rules", "gpt-4", "people"]
    assert (tmp_path / ".answers" / "answers.db").is_file()


def test_what_an_address_names_must_be_there(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.delenv("SCRIPTED_KEY", raising=False)
    workspace = Workspace(tmp_path)
    with pytest.raises(RlhfError, match="the environment variable NOT_SET is not set"):
        make_judge("people:$NOT_SET/votes.jsonl", settings, workspace)
    with pytest.raises(SettingsError, match=r"no endpoint 'gpt-4'; evaluate\.endpoints has: none"):
        make_judge("api:gpt-4", settings, workspace)
    content = settings.model_dump(mode="json", by_alias=True)
    one = endpoint("http://127.0.0.1:1/v1").model_dump(mode="json")
    content["evaluate"]["endpoints"] = {"gpt-4": one}
    with pytest.raises(JudgeError, match="SCRIPTED_KEY is not set"):
        make_judge("api:gpt-4", settings_from(content), workspace)


class RenamedJudge(RuleJudge):
    name = "something else"


def test_a_judge_under_another_name_than_the_settings_give_it_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report and champions find its figures by that name."""
    module = ModuleType("renamed_judge")
    module.RenamedJudge = RenamedJudge  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "renamed_judge", module)
    monkeypatch.setitem(JUDGES, "mine", "renamed_judge:RenamedJudge")
    with pytest.raises(RlhfError, match="its name is 'something else'; it must be 'mine'"):
        make_judge("mine", settings, Workspace())


IMPORTED = """
import sys
from rlhf.evaluation.judges import make_judge
from rlhf.settings import preset_text, settings_from
from rlhf.common.yaml import parse_yaml
from rlhf.workspace import Workspace
make_judge("rules", settings_from(parse_yaml(preset_text("tiny"), "tiny")), Workspace())
print(*sorted(name for name in sys.modules if name.startswith("rlhf.evaluation.judges.")))
"""


def imported_judges() -> Sequence[str]:
    command = [sys.executable, "-c", IMPORTED]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_judge_that_is_not_asked_is_not_imported() -> None:
    assert imported_judges() == ["rlhf.evaluation.judges.rules"]
