import json
from pathlib import Path

import pytest

from rlhf.common.files import read_json, write_text
from rlhf.report.study import build
from rlhf.settings import preset_text
from rlhf.workspace import Workspace


def record(seed: int, level: float, collapsed: bool) -> dict[str, object]:
    """A run whose reward, KL and gold rise from 0 to `level`."""
    keys = ("reward", "kl", "perplexity", "response_length", "entropy")
    curves = [{"step": step, **dict.fromkeys(keys, level * step / 4)} for step in range(5)]
    looks = [
        {"step": step, "reward": 0.0, "reward_tail": 1.0, "gold": level * step / 4}
        for step in (0, 4)
    ]
    ends = {f"{key}_last": level for key in (*keys, "gold", "reward_tail")}
    starts = {f"{key}_first": 0.0 for key in (*keys, "gold", "reward_tail")}
    summary = (
        ends
        | starts
        | {
            "plain_text_loss": 3.0,
            "collapsed": collapsed,
            "collapse_step": 3 if collapsed else None,
        }
    )
    return {"seed": seed, "curves": curves, "looks": looks, "summary": summary}


@pytest.fixture
def study(tmp_path: Path) -> Workspace:
    """Three seeds of fig. 9: vanilla PPO ends at 2, PPO-max at 1, also by the gold judge, against the paper."""
    write_text(tmp_path / "params.yaml", preset_text("study"))
    for arm, level in (("vanilla", 2.0), ("ppo-max", 1.0)):
        runs = [record(seed, level + 0.1 * seed, arm == "vanilla") for seed in (1, 2, 3)]
        write_text(tmp_path / "runs" / f"{arm}.json", json.dumps({"arm": arm, "runs": runs}))
    return Workspace(tmp_path)


def test_the_page_and_the_table_say_what_the_runs_say(
    study: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RLHF_GIT_COMMIT", "<script>x</script>")
    build(study, ["fig9"])
    page = study.report.read_text()
    rows = read_json(study.root / "reports" / "findings.json")["findings"]
    kl = next(row for row in rows if row["metric"] == "kl_last")
    assert (kl["arm"], kl["against"], kl["paper"], kl["verdict"]) == (
        "ppo-max",
        "vanilla",
        "lower",
        "agrees",
    )
    assert kl["difference"] == pytest.approx(-1.0) and kl["seeds"] == 3
    assert read_json(study.metrics("findings")) == {
        "agrees": 3,
        "differs": 1,
        "inside_the_noise": 0,
    }
    assert "The collapse alarm on vanilla: seed 1: iteration 3" in page and "seed 1: silent" in page
    assert page.count("<svg") == 6 and "<script>x" not in page and "3 of 3" in page


def test_the_page_is_the_same_for_the_same_runs(study: Workspace) -> None:
    build(study, ["fig9"])
    first = study.report.read_bytes()
    build(study, ["fig9"])
    assert study.report.read_bytes() == first
