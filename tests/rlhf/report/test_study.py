import json
import re
from pathlib import Path

import pytest

from rlhf.common.files import read_json, write_text
from rlhf.report.formats import NO_VALUE
from rlhf.report.study import build_study
from rlhf.settings import preset_text
from rlhf.workspace import Workspace


def make_record(seed: int, level: float, collapsed: bool) -> dict[str, object]:
    """A run whose reward, KL and gold rise from 0 to `level`."""
    keys = ("reward", "kl", "perplexity", "response_length", "entropy")
    curves = [{"step": step, **dict.fromkeys(keys, level * step / 4)} for step in range(5)]
    validations = [
        {
            "step": step,
            "reward": 0.0,
            "reward_tail": 1.0,
            "gold": level * step / 4,
            "kl": level * step / 8,
            "tokens": 100.0 * step,
        }
        for step in (0, 4)
    ]
    summary: dict[str, object] = {
        "plain_text_loss": 3.0,
        "collapsed": collapsed,
        "collapse_step": 3 if collapsed else None,
    }
    for key in (*keys, "gold", "reward_tail"):
        summary |= {f"{key}_first": 0.0, f"{key}_last": level}
    return {"seed": seed, "curves": curves, "looks": validations, "summary": summary}


@pytest.fixture
def study(tmp_path: Path) -> Workspace:
    """Three seeds of fig. 9 in which, against the paper, gold too is higher for vanilla PPO.

    Vanilla PPO ends at 2 in every metric, PPO-max at 1.
    """
    write_text(tmp_path / "params.yaml", preset_text("study"))
    for arm, level in (("vanilla", 2.0), ("ppo-max", 1.0)):
        runs = [make_record(seed, level + 0.1 * seed, arm == "vanilla") for seed in (1, 2, 3)]
        write_text(tmp_path / "runs" / f"{arm}.json", json.dumps({"arm": arm, "runs": runs}))
    return Workspace(tmp_path)


def test_the_findings_are_those_of_the_runs(study: Workspace) -> None:
    build_study(study, ["fig9"])
    findings = read_json(study.root / "reports" / "findings.json")["findings"]
    kl = next(finding for finding in findings if finding["metric"] == "kl_last")
    assert (kl["arm"], kl["against"]) == ("ppo-max", "vanilla")
    assert (kl["paper"], kl["verdict"]) == ("lower", "agrees")
    assert kl["difference"] == pytest.approx(-1.0)
    assert kl["seeds"] == 3
    counts = {"agrees": 3, "differs": 1, "inside_the_noise": 0}
    assert read_json(study.metrics("findings")) == counts


def test_the_page_shows_alarms_and_figures(
    study: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_GIT_COMMIT", "<script>x</script>")
    build_study(study, ["fig9"])
    page = study.report.read_text()
    assert "The collapse alarm on vanilla: seed 1: iteration 3" in page
    assert "seed 1: silent" in page and "3 of 3" in page
    assert page.count("<svg") == 8
    assert "Gold judge against KL" in page and "Gold judge against sampled tokens" in page
    assert "<script>x" not in page


def test_the_area_of_planted_errors_stands_beside_each_arm(study: Workspace) -> None:
    """A run from before it was measured has a dash."""
    path = study.root / "runs" / "vanilla.json"
    runs = read_json(path)["runs"]
    for run, area in zip(runs, (0.25, 0.35, 0.45), strict=True):
        run["summary"]["credit_auc_last"] = area
    write_text(path, json.dumps({"arm": "vanilla", "runs": runs}))
    build_study(study, ["fig9"])
    # the table of findings has no row that begins with an arm
    rows = re.findall(r"<tr>\s*<td>([\w-]+)</td>(.*?)</tr>", study.report.read_text(), re.S)
    shown = {arm: re.findall(r"<td[^>]*>(.*?)</td>", row)[-2] for arm, row in rows}
    assert shown == {"vanilla": "0.350", "ppo-max": NO_VALUE}


def test_a_single_seed_has_no_interval(study: Workspace) -> None:
    for arm in ("vanilla", "ppo-max"):
        path = study.root / "runs" / f"{arm}.json"
        runs = read_json(path)["runs"][:1]
        write_text(path, json.dumps({"arm": arm, "runs": runs}))
    build_study(study, ["fig9"])
    findings = read_json(study.root / "reports" / "findings.json")["findings"]
    assert {(finding["low"], finding["high"]) for finding in findings} == {(None, None)}
    assert {finding["verdict"] for finding in findings} == {"inside the noise"}


def test_the_page_is_the_same_for_the_same_runs(study: Workspace) -> None:
    build_study(study, ["fig9"])
    first = study.report.read_bytes()
    build_study(study, ["fig9"])
    assert study.report.read_bytes() == first
