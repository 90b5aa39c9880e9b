"""What changes a finished chain: a promotion by hand, then another setting of PPO, whose policy meets that champion."""

import json
from contextlib import chdir
from typing import Any

import pytest
from dvc.repo import Repo

from rlhf.common.yaml import parse_yaml, write_yaml
from rlhf.settings.edit import edited
from rlhf.workspace import Workspace
from tasks.tracking import client_of
from tests.flows.records import EXPERIMENT, newest
from tests.project_copy import Project


@pytest.fixture(scope="module")
def told(changed_chain: Project) -> str:
    """What is told of the policy against sft, where any win rate makes it champion."""
    params = changed_chain.root / "params.yaml"
    before = params.read_text()
    params.write_text(before.replace("promotion: {above: 0.5", "promotion: {above: 0.0"))
    try:
        return changed_chain.run("rlhf", "compare", "policy/1", "sft", "--promote")
    finally:
        params.write_text(before)


def stale_stages(project: Project) -> list[str]:
    """What `dvc status` lists, without a process of its own."""
    with chdir(project.root), Repo() as repo:
        return list(repo.status())


def test_two_registered_models_are_compared_by_hand_and_the_better_promoted(
    changed_chain: Project, told: str
) -> None:
    client = client_of(changed_chain.root)
    run = newest(client, "compare")
    assert run.info.status == "FINISHED"
    assert run.data.tags["match.challenger"] == f"{EXPERIMENT}-policy/1"
    assert run.data.tags["match.baseline"] == f"{EXPERIMENT}-sft/1"
    assert [item.path for item in client.list_artifacts(run.info.run_id, "tables")] == [
        "tables/match.json"
    ]
    assert f"win rate {run.data.metrics['match/win_rate']:.3f} [" in told
    assert client.get_model_version_by_alias(f"{EXPERIMENT}-policy", "champion").version in (1, "1")
    assert "promoted to champion" in told
    refused = changed_chain.run("rlhf", "compare", "sft", "champion", "--promote", code=1)
    assert (
        f"error: {EXPERIMENT}-sft/1: only a version of {EXPERIMENT}-policy that is not champion yet"
        in refused
    )


@pytest.mark.long
@pytest.mark.usefixtures("told")
def test_a_ppo_setting_runs_only_what_follows_and_coming_back_runs_nothing(
    changed_chain: Project,
) -> None:
    params = changed_chain.root / "params.yaml"
    before = params.read_text()
    # with dvc.lock, which DVC compares with
    changed_chain.commit()
    content = parse_yaml(before, "params.yaml")
    content["ppo"]["kl"]["coefficient"] = 0.5
    params.write_text(write_yaml(content))
    try:
        assert changed_chain.ran(changed_chain.repro()) == ["ppo", "evaluate", "report"]
        difference = json.loads(changed_chain.run("dvc", "params", "diff", "--json", "HEAD"))
        assert "ppo.kl.coefficient" in difference["params.yaml"]
        metrics = json.loads(changed_chain.run("dvc", "metrics", "diff", "--json"))
        change = metrics["metrics/ppo_key.json"]["ppo/kl_last"]
        summary = json.loads(Workspace(changed_chain.root).metrics("ppo").read_text())
        assert change["new"] == summary["kl_last"] != change["old"]
        client = client_of(changed_chain.root)
        policy = client.get_model_version_by_alias(f"{EXPERIMENT}-policy", "challenger")
        assert int(policy.version) == 2
        assert f"over {EXPERIMENT}-policy/1 by gold" in policy.tags["promotion.reason"]
        assert newest(client, "evaluate").data.tags["match.baseline"] == f"{EXPERIMENT}-policy/1"
    finally:
        params.write_text(before)
    output = changed_chain.repro()
    assert changed_chain.ran(output) == []
    assert output.count("is cached - skipping run") == 3


@pytest.mark.parametrize(
    ("key", "value", "stale"),
    [
        ("ppo.kl.coefficient", 0.4, ["ppo", "report"]),
        ("evaluate.promotion.above", 0.6, ["evaluate", "report"]),
        ("mlflow.weights", "reference", []),
    ],
)
def test_a_setting_makes_those_stages_stale_that_depend_on_it(
    changed_chain: Project, key: str, value: Any, stale: list[str]
) -> None:
    params = changed_chain.root / "params.yaml"
    before = params.read_text()
    params.write_text(edited(before, {key: value}, "params.yaml"))
    try:
        assert stale_stages(changed_chain) == stale
    finally:
        params.write_text(before)


@pytest.mark.parametrize(
    ("path", "stale"),
    [
        # a new algorithm, and the line that names it
        ("rlhf/algorithms/mine.py", []),
        ("rlhf/registry.py", []),
        # a file that nobody runs, beside others that every stage runs
        ("rlhf/core/mine.py", []),
        # data of the project, a new file of it too
        ("rlhf/data/starter/mine.jsonl", ["fetch"]),
        ("rlhf/evaluation/knowledge.jsonl", ["evaluate"]),
        # an algorithm that nobody chose
        ("rlhf/algorithms/apa.py", []),
        # the one that was chosen, and what it shares with others
        ("rlhf/algorithms/ppo_max.py", ["ppo"]),
        ("rlhf/algorithms/on_policy.py", ["ppo"]),
        # a caption, a judge, a source of data
        ("rlhf/report/curves.py", ["report"]),
        ("rlhf/evaluation/judges/rules.py", ["evaluate"]),
        ("rlhf/data/sources/wheel.py", ["fetch"]),
    ],
)
def test_a_change_of_code_makes_those_stages_stale_that_run_it(
    changed_chain: Project, path: str, stale: list[str]
) -> None:
    source = changed_chain.root / path
    before = source.read_text() if source.exists() else None
    source.write_text(f"{before or ''}\n# changed\n")
    try:
        assert stale_stages(changed_chain) == stale
    finally:
        if before is None:
            source.unlink()
        else:
            source.write_text(before)
