"""Champion and challenger: the decision by numbers, names to versions, versions to bytes."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.logging import disable_run_logger

from rlhf.common.errors import RlhfError
from rlhf.common.files import write_json
from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_text, settings_from
from rlhf.settings.evaluation import Promotion
from rlhf.workspace import Workspace
from tasks.lineage import Lineage, cache_output
from tasks.matches import (
    ComparisonResult,
    Decision,
    apply_decision,
    champion_to_beat,
    decide,
    first_of_policy,
    read_results,
)
from tasks.registry import logged_model_of, register_model
from tasks.tracking import client_of, open_run
from tasks.versions import (
    CHAMPION,
    RegisteredVersion,
    find_by_alias,
    find_by_tree,
    find_version,
    restored,
)
from tasks.weights import bring_weights
from tests.project_copy import Project

METRICS = {"win_rate": 0.58, "win_rate_low": 0.51, "win_rate_high": 0.65, "unjudged": 0}
SETTINGS = settings_from(parse_yaml(preset_text("tiny"), "tiny"))
RESULT = ComparisonResult("policy", "sft", "gold", 120, METRICS, {})


@pytest.mark.parametrize(
    ("low", "above", "promoted"),
    [(0.51, 0.5, True), (0.5, 0.5, False), (0.51, 0.52, False), (0.99, None, False)],
)
def test_a_challenger_is_promoted_when_its_interval_lies_above_the_bar(
    low: float, above: float | None, promoted: bool
) -> None:
    rule = None if above is None else Promotion(above=above)
    result = replace(RESULT, metrics=METRICS | {"win_rate_low": low})
    decision = decide(result, "rlhf-policy/2", rule)
    assert decision.promoted is promoted
    assert (
        "0.580" in decision.reason
        and "rlhf-policy/2 by gold, 120 of 120 prompts judged" in decision.reason
    )


@pytest.mark.parametrize(
    ("unjudged", "promoted"), [(60, True), (61, False), (119, False), (120, False)]
)
def test_a_few_verdicts_promote_nobody(unjudged: int, promoted: bool) -> None:
    nothing: dict[str, Any] = dict.fromkeys(("win_rate", "win_rate_low", "win_rate_high"))
    metrics = METRICS | {"unjudged": unjudged} | (nothing if unjudged == 120 else {})
    assert decide(replace(RESULT, metrics=metrics), "sft", Promotion()).promoted is promoted
    few = replace(RESULT, prompts=29)
    assert (
        not decide(few, "sft", Promotion()).promoted
        and decide(few, "sft", Promotion(verdicts=29)).promoted
    )


def write_details(workspace: Workspace, *pairs: tuple[str, str]) -> None:
    """Details with these comparisons, by gold and then by rules; the win rates are 0.1, 0.2, ..."""
    rows: list[dict[str, Any]] = []
    for judge in ("gold", "rules"):
        for challenger, baseline in pairs:
            metrics = {"win_rate": (len(rows) + 1) / 10, "unjudged": 1}
            names = {"challenger": challenger, "baseline": baseline, "judge": judge}
            rows.append(names | {"metrics": metrics, "kinds": {"helpful": metrics}})
    write_json(workspace.details("evaluate"), {"prompts": 8, "comparisons": rows})


def test_the_result_of_the_policy_is_found_wherever_its_comparison_stands(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    write_details(workspace, ("policy", "sft"), ("policy", "base"))
    result = first_of_policy(read_results(workspace))
    assert result is not None and (result.baseline, result.metrics["win_rate"]) == ("sft", 0.1)
    assert (result.judge, result.prompts, result.kinds["helpful"]["unjudged"]) == ("gold", 8, 1)

    write_details(workspace, ("sft", "base"), ("policy", "base"))
    result = first_of_policy(read_results(workspace))
    assert result is not None and (result.baseline, result.metrics["win_rate"]) == ("base", 0.2)
    assert result.judge == "gold"

    write_details(workspace, ("sft", "base"))
    assert first_of_policy(read_results(workspace)) is None


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DVC repository whose stage `ppo` made two policies in turn, both registered, the first the champion."""
    project = Project.small(tmp_path_factory.mktemp("registry") / "repository")
    root = project.root
    (root / "dvc.yaml").write_text(
        "stages:\n  ppo: {cmd: 'mkdir -p models/policy/sub && cp data/in models/policy/weights "
        "&& cp data/in models/policy/sub/more && cp *config.json models/policy "
        "&& cp data/in models/policy/model.safetensors', "
        "deps: [data], outs: [models/policy]}\n"
    )
    write_json(root / "config.json", {"architectures": ["LlamaForCausalLM"]})
    write_json(root / "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"})
    for content in ("first", "second"):
        (root / "data" / "in").write_text(content)
        project.repro()
        run = open_run(root, "ppo", "exp", content, Lineage("c0ffee", False, "5e77"), {})
        output = cache_output(root, "ppo", "models/policy")
        register_model(run, "policy", output, None, SETTINGS)
    client_of(root).set_registered_model_alias("exp-policy", CHAMPION, "1")
    return root


@pytest.mark.parametrize(
    ("reference", "version"),
    [
        ("champion", "1"),
        ("policy@champion", "1"),
        ("policy/2", "2"),
        ("policy", "2"),
        ("exp-policy/1", "1"),
    ],
)
def test_a_version_is_found_by_what_a_user_calls_it(
    registry: Path, reference: str, version: str
) -> None:
    assert find_version(registry, "exp", reference).version == version


@pytest.mark.parametrize(
    "reference", ["challenger", "policy/3", "sft", "policy@nobody", "", "a'b", "policy/x"]
)
def test_what_the_registry_lacks_is_said_with_what_it_has(registry: Path, reference: str) -> None:
    with pytest.raises(RlhfError, match="exp-policy/1 @champion, exp-policy/2"):
        find_version(registry, "exp", reference)


def test_an_alias_or_bytes_that_nobody_has_give_none(registry: Path) -> None:
    assert find_by_alias(registry, "exp", "policy", "challenger") is None
    assert find_by_alias(registry, "exp", "nothing", CHAMPION) is None
    assert find_by_tree(registry, "exp", "policy", "0" * 64) is None
    champion = find_version(registry, "exp", "champion")
    assert find_by_alias(registry, "exp", "policy", CHAMPION) == champion
    assert find_by_tree(registry, "exp", "policy", champion.tree_sha256) == champion


def test_bytes_are_found_in_the_version_that_loads(registry: Path) -> None:
    """An earlier release registered the same bytes as files that MLflow does not load."""
    client = client_of(registry)
    found = find_version(registry, "exp", "policy/1")
    run_id = client.get_model_version(found.name, "1").run_id
    tags = {"tree.sha256": found.tree_sha256, "dvc.out": found.dvc_hash}
    old = client.create_model_version(found.name, "file:///gone/model", run_id, tags=tags)
    assert find_by_tree(registry, "exp", "policy", found.tree_sha256) == found
    client.delete_model_version(old.name, old.version)


def test_an_older_version_comes_back_out_of_dvcs_cache(registry: Path) -> None:
    with restored(registry, find_version(registry, "exp", "policy/1")) as directory:
        assert (
            (directory / "weights").read_text()
            == (directory / "sub" / "more").read_text()
            == "first"
        )
    assert not directory.exists()
    assert (registry / "models" / "policy" / "weights").read_text() == "second"


def test_an_older_version_comes_back_out_of_dvcs_remote(registry: Path, tmp_path: Path) -> None:
    project = Project(tmp_path / "clone")
    shutil.copytree(registry, project.root)
    project.run("dvc", "remote", "add", "--default", "store", str(tmp_path / "store"))
    project.run("dvc", "push", "--run-cache")
    model = find_version(project.root, "exp", "policy/2")
    shutil.rmtree(project.root / ".dvc" / "cache")
    with restored(project.root, model) as directory:
        assert (directory / "weights").read_text() == "second"
    gone = restored(project.root, find_version(project.root, "exp", "policy/1"))
    with pytest.raises(RlhfError, match=r"exp-policy/1: its bytes .* are not in DVC's cache"), gone:
        pass


def test_weights_kept_by_reference_come_out_of_dvcs_cache(registry: Path) -> None:
    client = client_of(registry)
    version = client.get_model_version("exp-policy", "1")
    logged = logged_model_of(client, version)
    folder = Path(logged.artifact_location.removeprefix("file://")) / "data" / "policy"
    weights = folder / "model.safetensors"
    weights.unlink()
    assert bring_weights(registry, "exp", "policy/1") == "models:/exp-policy/1"
    assert weights.read_text() == "first"


def test_bytes_that_are_not_those_registered_are_refused(registry: Path) -> None:
    found = find_version(registry, "exp", "policy/1")
    other = RegisteredVersion(found.name, found.version, found.dvc_hash, "0" * 64)
    with (
        pytest.raises(RlhfError, match="not those that were registered"),
        restored(registry, other),
    ):
        pass


def test_only_a_match_of_a_policy_against_the_champion_can_promote(registry: Path) -> None:
    first, second = (find_version(registry, "exp", f"policy/{number}") for number in (1, 2))
    assert champion_to_beat(registry, "exp", second, first) == first
    with pytest.raises(RlhfError, match="the champion is exp-policy/1"):
        champion_to_beat(registry, "exp", second, second)
    with pytest.raises(RlhfError, match="not champion yet"):
        champion_to_beat(registry, "exp", first, first)
    with pytest.raises(RlhfError, match="only a version of exp-policy"):
        champion_to_beat(registry, "exp", RegisteredVersion("exp-sft", "1", "", ""), first)


def test_the_first_champion_has_to_beat_the_sft_model(registry: Path) -> None:
    policy, base = (
        RegisteredVersion("new-policy", "1", "", ""),
        RegisteredVersion("new-base", "1", "", ""),
    )
    with pytest.raises(RlhfError, match="the first has to beat new-sft"):
        champion_to_beat(registry, "new", policy, base)
    assert (
        champion_to_beat(registry, "new", policy, RegisteredVersion("new-sft", "1", "", "")) is None
    )


def test_a_champion_that_came_during_the_match_stays(registry: Path) -> None:
    run = open_run(registry, "compare", "exp", "late", Lineage("c0ffee", False, "5e77"), {})
    second = find_version(registry, "exp", "policy/2")
    with disable_run_logger():  # that of a flow, which this is not
        apply_decision(run, second, None, Decision(True, "it won against nobody"))
    tags = client_of(registry).get_model_version("exp-policy", "2").tags
    assert (
        tags["promotion"] == "not promoted"
        and "meanwhile exp-policy/1 became champion" in tags["promotion.reason"]
    )
    assert find_version(registry, "exp", "champion").version == "1"
