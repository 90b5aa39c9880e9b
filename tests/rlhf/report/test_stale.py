from pathlib import Path
from typing import Any

from rlhf.common.yaml import write_yaml
from rlhf.report.build import build
from rlhf.report.stale import stale
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

HEADING = "Not one run of these settings"


def note_a_run(workspace: Workspace, **changes: Any) -> None:
    """Settings, and what DVC notes of two stages and a report that ran with them.

    changes: to the settings, since
    """
    noted = {"seed": 1, "ppo.kl.coefficient": 5e-05, "ppo.apa": None}
    ppo = {
        "cmd": "python -m flows.ppo",
        "params": {"params.yaml": noted},
        "outs": [{"path": "models/policy", "md5": "b2"}],
    }
    evaluate = {"deps": [{"path": "models/policy", "md5": "b2"}, {"path": "rlhf/ppo", "md5": "c"}]}
    report = {"params": {"params.yaml": {"report.dialogues": 8}}}
    stages = {"ppo": ppo, "evaluate": evaluate, "report": report}
    (workspace.root / "dvc.lock").write_text(write_yaml({"schema": "2.0", "stages": stages}))
    kl = {"coefficient": changes.pop("coefficient", 5e-05)}
    settings = {"seed": 1, "ppo": {"kl": kl}, "report": {"dialogues": 8}} | changes
    workspace.params.write_text(write_yaml(settings))


def test_of_a_whole_run_nothing_is_told(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    # without DVC there is nothing to tell by
    assert list(stale(workspace)) == []
    note_a_run(workspace)
    assert list(stale(workspace)) == []


def test_a_setting_that_was_changed_or_taken_away_is_named_with_its_stage(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    note_a_run(workspace, coefficient=0.2, seed=None, report={"dialogues": 4})
    changed = [
        "ppo has not run since seed was changed",
        "ppo has not run since ppo.kl.coefficient was changed",
    ]
    assert list(stale(workspace, but=("report",))) == changed
    # of a report that is about to be made, the one before does not count
    assert list(stale(workspace)) == [
        *changed,
        "report has not run since report.dialogues was changed",
    ]


def test_a_model_that_was_made_anew_is_named_with_who_did_not_read_it(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    note_a_run(workspace)
    text = (tmp_path / "dvc.lock").read_text()
    (tmp_path / "dvc.lock").write_text(text.replace("md5: b2", "md5: a1", 1))
    assert list(stale(workspace)) == ["evaluate has not run since models/policy was made anew"]


def test_a_page_of_other_settings_says_so_at_its_top(
    settings: Settings, page: str, workspace: Workspace
) -> None:
    assert HEADING not in page
    note_a_run(workspace, coefficient=0.2)
    build(settings, workspace)
    told = workspace.report.read_text(encoding="utf-8")
    assert told.index(HEADING) < told.index('id="evaluation"')
    assert "<li>ppo has not run since ppo.kl.coefficient was changed</li>" in told
