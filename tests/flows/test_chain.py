"""The whole chain, run by `dvc repro` in a clone with the tiny preset."""

import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.utils.file_utils import local_file_uri_to_path

from rlhf.common.files import tree_sha256
from rlhf.common.yaml import parse_yaml, read_yaml
from rlhf.settings import preset_text, settings_from
from rlhf.stages import STAGES
from rlhf.workspace import OFF_FILE, Workspace
from tasks.tracking import client_of
from tests.flows.records import EXPERIMENT, newest, runs
from tests.project_copy import Project
from tests.waiting import wait_until

RATES = ("win", "tie", "lose", "win_rate", "win_rate_low", "win_rate_high")
KEYS = {
    "fetch": "model_source model_revision model_sha256 model_bytes",
    "prepare": "sft_train preferences_train preferences_gold preferences_test prompts_train prompts_test pretrain_train"
    " dropped broken",
    "sft": "train_loss validation_loss validation_perplexity base_validation_perplexity seconds tokens_per_second",
    "reward": "accuracy accuracy_helpful accuracy_harmless accuracy_unseen_openings margin_mean calibration_error seconds"
    " tokens_per_second",
    "ppo": "reward_first reward_last kl_last perplexity_last response_length_last collapsed seconds"
    " rollout_tokens_per_second update_tokens_per_second",
    "evaluate": " ".join(
        f"{rate}{kind}" for rate in RATES for kind in ("", "_helpful", "_harmless")
    ),
}
KEYS["gold"] = KEYS["reward"]
# what one compares experiments by
FIGURES = (
    "reward/accuracy",
    "gold/accuracy",
    "ppo/reward_last",
    "ppo/kl_last",
    "evaluate/win_rate",
)
SETTINGS = settings_from(parse_yaml(preset_text("tiny"), "tiny"))
# the others leave empty outputs, and no run in MLflow
ON = [name for name, stage in STAGES.items() if not stage.is_off(SETTINGS)]
MEASURED = [name for name in ON if STAGES[name].summary]


def lock(project: Project) -> Any:
    return read_yaml(project.root / "dvc.lock")["stages"]


@pytest.mark.parametrize("stage", MEASURED)
def test_metrics_hold_what_others_rely_on(chain: Project, stage: str) -> None:
    found = json.loads(Workspace(chain.root).metrics(stage).read_text())
    assert set(KEYS[stage].split()) <= set(found)
    assert not any(isinstance(value, dict | list) for value in found.values())


def test_outputs_are_whole_and_dvcs_alone(chain: Project) -> None:
    workspace = Workspace(chain.root)
    for name in ("base", "sft", "reward", "policy", "gold"):
        assert list(workspace.model(name).glob("*.safetensors")), name
    assert workspace.report.read_text().lstrip().lower().startswith("<!doctype html>")
    assert not list(chain.root.rglob("*.partial-*"))
    assert chain.run("git", "status", "--porcelain").split() == ["??", "dvc.lock"]


@pytest.mark.parametrize("name", sorted(set(STAGES) - set(ON)))
def test_a_stage_that_is_off_leaves_empty_outputs(chain: Project, name: str) -> None:
    workspace = Workspace(chain.root)
    assert STAGES[name].optional == name
    assert [path.name for path in workspace.model(name).iterdir()] == [OFF_FILE]
    assert json.loads(workspace.metrics(name).read_text()) == {}
    for path in STAGES[name].stand_ins:
        assert json.loads((chain.root / path).read_text())["sha256"] is None
    client = client_of(chain.root)
    registered = {model.name for model in client.search_registered_models()}
    assert f"{EXPERIMENT}-sft" in registered and f"{EXPERIMENT}-{name}" not in registered


def test_a_second_repro_runs_nothing(chain: Project) -> None:
    before = (chain.root / "dvc.lock").read_text()
    output = chain.repro()
    assert chain.ran(output) == []
    assert "up to date" in output
    assert (chain.root / "dvc.lock").read_text() == before


def test_mlflow_has_one_parent_with_a_child_a_stage(chain: Project) -> None:
    client = client_of(chain.root)
    (parent,) = [run for run in runs(client) if run.data.tags.get("rlhf.role") == "execution"]
    children = [
        run for run in runs(client) if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id
    ]
    assert [run.info.run_name for run in children] == ON
    assert {run.info.status for run in [parent, *children]} == {"FINISHED"}
    commit = chain.run("git", "rev-parse", "HEAD").strip()
    for run in children:
        stage = lock(chain)[run.info.run_name]
        read = {item["path"]: item["md5"] for item in stage.get("deps", [])}
        assert read.items() <= lineage_of(client, run)["dependencies"].items()
        # code is in the file alone
        data = {path: md5 for path, md5 in read.items() if path.startswith(("data/", "models/"))}
        hashes = {f"dvc.dep.{path}": md5 for path, md5 in data.items()}
        hashes |= {f"dvc.out.{item['path']}": item["md5"] for item in stage["outs"]}
        assert hashes.items() <= run.data.tags.items()
        assert run.data.tags["git.commit"] == commit
        assert run.data.tags["git.dirty"] == "false"
        assert len(run.data.tags["settings.sha256"]) == 64
        assert run.data.params["seed"] == "1"
    assert (
        parent.data.metrics["evaluate/win_rate"]
        == newest(client, "evaluate").data.metrics["summary/win_rate"]
    )


def test_mlflow_has_every_step_the_samples_and_the_page(chain: Project) -> None:
    client = client_of(chain.root)
    run = newest(client, "ppo")
    rows = [
        json.loads(line) for line in Workspace(chain.root).steps("ppo").read_text().splitlines()
    ]
    history = client.get_metric_history(run.info.run_id, "ppo/reward")
    assert [(item.step, item.value) for item in sorted(history, key=lambda item: item.step)] == [
        (row["step"], row["reward"]) for row in rows if "reward" in row
    ]
    assert [item.path for item in client.list_artifacts(run.info.run_id, "tables")] == [
        "tables/ppo_samples.json"
    ]
    page = newest(client, "report").info.run_id
    assert "index.html" in [item.path for item in client.list_artifacts(page)]


def test_from_a_registered_model_one_walks_back_to_the_bytes_of_the_data(chain: Project) -> None:
    """Version -> its inputs' hashes -> the versions that have these hashes -> ... -> the raw data in DVC's cache."""
    client = client_of(chain.root)
    policy = client.get_model_version_by_alias(f"{EXPERIMENT}-policy", "challenger")
    assert policy.tags["tree.sha256"] == tree_sha256(Workspace(chain.root).model("policy"))
    assert policy.run_id is not None
    read = lineage_of(client, client.get_run(policy.run_id))["dependencies"]
    for name in ("sft", "reward"):
        (version,) = client.search_model_versions(
            f"name = '{EXPERIMENT}-{name}' and tags.`dvc.out` = '{read[f'models/{name}']}'"
        )
        assert client.get_run(version.run_id).data.tags["rlhf.stage"] == name
    sft = client.search_model_versions(f"name = '{EXPERIMENT}-sft'")[0]
    logged = client.get_logged_model(sft.source.removeprefix("models:/"))
    kept = json.loads(
        Path(local_file_uri_to_path(logged.artifact_location), "lineage.json").read_text()
    )
    table = kept["dependencies"]["data/prepared/sft.parquet"]
    assert (
        in_cache(chain, table).read_bytes()
        == (chain.root / "data" / "prepared" / "sft.parquet").read_bytes()
    )
    (prepare,) = [
        run
        for run in runs(client)
        if run.data.tags.get("dvc.out.data/prepared/sft.parquet") == table
    ]
    raw = prepare.data.tags["dvc.dep.data/raw"]
    entries = json.loads(in_cache(chain, raw).read_text())
    assert entries
    for entry in entries:
        content = in_cache(chain, entry["md5"]).read_bytes()
        assert hashlib.md5(content, usedforsecurity=False).hexdigest() == entry["md5"]
        assert content == (chain.root / "data" / "raw" / entry["relpath"]).read_bytes()


def lineage_of(client: MlflowClient, run: Run) -> Any:
    """What the run's lineage.json holds."""
    return json.loads(Path(client.download_artifacts(run.info.run_id, "lineage.json")).read_text())


def in_cache(project: Project, md5: str) -> Path:
    return project.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def test_prefect_has_a_completed_run_of_every_stage_and_its_server_went(chain: Project) -> None:
    home = chain.root / ".prefect"
    wait_until(
        lambda: not (home / "server.json").exists(),
        "the shared server outlives the runs that needed it",
    )
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        rows = database.execute(
            "select flow.name, flow_run.state_name from flow_run join flow on flow.id = flow_run.flow_id"
            " order by flow_run.created"
        ).fetchall()
    assert rows == [(stage, "Completed") for stage in STAGES]


def test_dvcs_metrics_are_the_key_figures_and_fit_a_screen(chain: Project) -> None:
    compared = {name: stage.compared for name, stage in STAGES.items() if stage.compared}
    shown = json.loads(chain.run("dvc", "metrics", "show", "--json"))[""]["data"]
    assert set(shown) == {f"metrics/{name}_key.json" for name in compared}
    for name, keys in compared.items():
        measured = json.loads(Workspace(chain.root).metrics(name).read_text())
        expected = {f"{name}/{key}": measured[key] for key in keys if name in ON}
        assert shown[f"metrics/{name}_key.json"]["data"] == expected
    table = chain.run("dvc", "metrics", "show")
    assert max(len(line) for line in table.splitlines()) <= 200
    # no column needs the path of its file
    experiments = chain.run("dvc", "exp", "show", "--csv").splitlines()[0].split(",")
    assert set(FIGURES) <= set(experiments)


def test_dvc_draws_every_plot(chain: Project) -> None:
    plots = json.loads(chain.run("dvc", "plots", "show", "--json"))
    assert plots.get("errors", []) == []
    for name, drawn in plots["data"].items():
        # of a stage that is off there is nothing to draw
        if name.startswith("DPO"):
            assert drawn == []
            continue
        (figure,) = drawn
        assert figure["content"]["data"]["values"], name
        assert figure["content"]["title"]["text"] == name


def test_the_evaluated_policy_is_challenger_and_mlflow_knows_why_it_is_champion_or_not(
    chain: Project,
) -> None:
    client = client_of(chain.root)
    policy = client.get_model_version_by_alias(f"{EXPERIMENT}-policy", "challenger")
    run = newest(client, "evaluate")
    found = json.loads(Workspace(chain.root).metrics("evaluate").read_text())
    promoted = found["win_rate_low"] > 0.5 and found["prompts"] - found["unjudged"] >= 4
    assert policy.tags["promotion.run"] == run.info.run_id
    for tags in (policy.tags, run.data.tags):
        assert tags["promotion"] == ("promoted to champion" if promoted else "not promoted")
        assert tags["promotion.reason"].startswith(
            f"no champion yet; win rate {found['win_rate']:.3f} ["
        )
    assert ("champion" in client.get_registered_model(f"{EXPERIMENT}-policy").aliases) is promoted
