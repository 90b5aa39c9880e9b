"""What is registered of a model: a folder that MLflow loads, its weights by link, copy or reference."""

import json
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from rlhf.common.errors import RlhfError
from rlhf.common.files import sha256, tree_sha256, write_json
from rlhf.common.yaml import parse_yaml
from rlhf.settings import Settings, preset_text, settings_from
from rlhf.workspace import HEAD_FILE, Workspace
from tasks.lineage import CachedOutput, Lineage
from tasks.registry import logged_model_of, record_figures, register_model
from tasks.tracking import TrackedRun, client_of, open_run

READ = {"models/sft": "5f7.dir", "data/prepared/prompts.parquet": "ab1e", "rlhf/ppo": "c0de.dir"}
LINEAGE = Lineage("c0ffee", True, "5e77", READ, {"ppo.epochs": 2})


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of its own database; making one costs seconds."""
    root = tmp_path_factory.mktemp("workspace")
    (root / "params.yaml").write_text("seed: 1\n")
    table = root / "data" / "prepared" / "prompts.parquet"
    table.parent.mkdir(parents=True)
    pd.DataFrame({"ids": [[1]]}).to_parquet(table)
    return root


def settings(weights: str = "link") -> Settings:
    content = parse_yaml(preset_text("tiny"), "tiny")
    return settings_from(content | {"mlflow": {"weights": weights}})


def write_model(root: Path, name: str, weights: str, *, scores: bool = False) -> Path:
    """A directory that looks like a model's: registering never loads one."""
    directory = Workspace(root).model(name)
    directory.mkdir(parents=True, exist_ok=True)
    write_json(directory / "config.json", {"architectures": ["LlamaForCausalLM"]})
    write_json(directory / "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"})
    (directory / "tokenizer.json").write_text("{}")
    names = ["model-00001.safetensors", *([HEAD_FILE] if scores else [])]
    for file in names:
        # as a stage does it: a new file takes the place of the old one
        (directory / "new").write_text(weights)
        (directory / "new").replace(directory / file)
    return directory


def opened(root: Path, execution: str, experiment: str = "exp") -> TrackedRun:
    return open_run(root, "ppo", experiment, execution, LINEAGE, {})


def folder_of(client: MlflowClient, version: ModelVersion) -> Path:
    location = logged_model_of(client, version).artifact_location
    return Path(location.removeprefix("file://"))


def outputs(client: MlflowClient, run: TrackedRun) -> list[str]:
    return [output.model_id for output in client.get_run(run.run_id).outputs.model_outputs]


def test_a_model_is_registered_once_with_all_that_it_was_made_from(records: Path) -> None:
    directory = write_model(records, "policy", "first")
    client = client_of(records)
    run = opened(records, "a")
    version = register_model(run, "policy", CachedOutput("hash1.dir"), "challenger", settings())
    assert (version.name, int(version.version)) == ("exp-policy", 1)
    assert len(version.tags) <= 5  # a promotion adds more, and ten are enough to look at
    assert version.tags["dvc.out"] == "hash1.dir"
    assert version.tags["git.commit"] == "c0ffee"

    lineage = json.loads((folder_of(client, version) / "lineage.json").read_text())
    assert lineage["dependencies"] == READ
    assert lineage["settings"] == {"ppo.epochs": 2}
    assert lineage["git"] == {"commit": "c0ffee", "dirty": True}
    assert lineage["made_by"]["run_id"] == run.run_id
    assert lineage["tree_sha256"] == version.tags["tree.sha256"] == tree_sha256(directory)
    weights = lineage["files"]["model-00001.safetensors"]
    assert weights == {"bytes": 5, "sha256": sha256(directory / "model-00001.safetensors")}

    # the same bytes again
    again = opened(records, "b")
    assert (
        int(register_model(again, "policy", CachedOutput("hash1.dir"), None, settings()).version)
        == 1
    )
    assert outputs(client, run) == outputs(client, again) != []

    write_model(records, "policy", "second")
    register_model(
        opened(records, "c"), "policy", CachedOutput("hash2.dir"), "challenger", settings()
    )
    newest = client.get_model_version_by_alias("exp-policy", "challenger")
    assert (int(newest.version), newest.tags["dvc.out"]) == (2, "hash2.dir")


def test_a_link_takes_no_place_and_keeps_its_bytes_when_the_stage_runs_again(records: Path) -> None:
    directory = write_model(records, "sft", "linked")
    client = client_of(records)
    version = register_model(opened(records, "d"), "sft", CachedOutput("h.dir"), None, settings())
    kept = folder_of(client, version) / "data" / "sft" / "model-00001.safetensors"
    assert kept.samefile(directory / "model-00001.safetensors")
    # what one may edit by hand is not shared
    assert not (kept.parent / "config.json").samefile(directory / "config.json")
    write_model(records, "sft", "made anew")
    assert kept.read_text() == "linked"


def test_a_copy_is_one(records: Path) -> None:
    directory = write_model(records, "reward", "copied", scores=True)
    client = client_of(records)
    version = register_model(
        opened(records, "e"), "reward", CachedOutput("h.dir"), None, settings("copy")
    )
    folder = folder_of(client, version) / "data" / "reward"
    for name in ("model-00001.safetensors", HEAD_FILE):
        assert (folder / name).read_text() == "copied"
        assert not (folder / name).samefile(directory / name)
        assert not (folder / name).is_symlink()


def test_a_reference_says_how_to_get_the_weights(records: Path) -> None:
    write_model(records, "gold", "elsewhere", scores=True)
    client = client_of(records)
    version = register_model(
        opened(records, "f"), "gold", CachedOutput("h.dir"), None, settings("reference")
    )
    assert not list(folder_of(client, version).rglob("*.safetensors"))
    with pytest.raises(FileNotFoundError, match=r"with DVC, not with MLflow .*`rlhf weights NAME"):
        mlflow.pyfunc.load_model(folder_of(client, version).as_uri())


def test_its_description_has_every_figure_and_where_to_look(records: Path) -> None:
    write_model(records, "base", "described")
    client = client_of(records)
    run = opened(records, "g")
    version = register_model(run, "base", CachedOutput("h.dir"), None, settings())
    figures = {"kl_last": 0.0912345, "collapsed": False, "finished": 0.0, "text": "left out"}
    record_figures(run, version, figures)
    rates = {"win_rate_over_sft_by_gold": 0.61, "win_rate_over_sft_by_gold_low": 0.55}
    rates["win_rate_over_sft_by_gold_high"] = 0.667
    record_figures(opened(records, "h"), version, rates)

    metrics = logged_model_of(client, version).metrics or []
    assert {metric.key: metric.value for metric in metrics} == {
        "kl_last": 0.0912345,
        "collapsed": 0.0,
        "finished": 0.0,
        **rates,
    }
    text = str(client.get_model_version(version.name, version.version).description)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows == [
        "| figure | value |",
        "| win_rate_over_sft_by_gold | 0.610 [0.550, 0.667] |",
        "| collapsed | no |",
        "| finished: answers that ended by themselves, within the limit of tokens | 0 % |",
        "| kl_last | 0.09123 |",
    ]
    assert "stage `ppo` at commit `c0ffee`, with changes" in text
    assert "from `data/prepared/prompts.parquet`, `models/sft`" in text
    assert f"/runs/{run.run_id})" in text
    assert f"/runs/{run.parent_id}/artifacts)" in text
    assert f'load_model("models:/exp-base/{version.version}")' in text


def test_a_store_that_cannot_be_written_leaves_no_version(records: Path, tmp_path: Path) -> None:
    write_model(records, "policy", "nowhere to go")
    (tmp_path / "file").touch()
    client = client_of(records)
    number = client.create_experiment("full", artifact_location=(tmp_path / "file").as_uri())
    # the parent's settings file is an artifact too
    (tmp_path / "file").unlink()
    run = opened(records, "i", "full")
    for path in sorted((tmp_path / "file").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "file").rmdir()
    (tmp_path / "file").touch()
    with pytest.raises((OSError, MlflowException)):
        register_model(run, "policy", CachedOutput("h.dir"), None, settings())
    assert not client.search_model_versions("name = 'full-policy'")
    (logged,) = client.search_logged_models([number])
    assert isinstance(logged, LoggedModel)
    assert logged.status == LoggedModelStatus.FAILED


def test_a_version_of_an_earlier_release_is_told_apart(records: Path) -> None:
    client = client_of(records)
    run = opened(records, "j")
    client.create_registered_model("exp-old")
    version = client.create_model_version("exp-old", "file:///gone/artifacts/model", run.run_id)
    with pytest.raises(RlhfError, match="exp-old/1: registered by an earlier release"):
        logged_model_of(client, version)
