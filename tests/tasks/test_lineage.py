from pathlib import Path
from typing import Any

import pytest

from rlhf.common.errors import ChangedError, RlhfError
from rlhf.common.yaml import parse_yaml, read_yaml, write_yaml
from rlhf.settings import preset_text, settings_from
from rlhf.settings.edit import edited
from tasks.lineage import Lineage, git_state, output_hashes, stage_lineage
from tasks.steps import refuse_changes
from tasks.tracking import TrackedRun
from tests.project_copy import Project

SETTINGS = settings_from(parse_yaml(preset_text("tiny"), "tiny"))


def test_hashes_are_those_that_dvc_writes_into_its_lock(repository: Project) -> None:
    before = stage_lineage(repository.root, "one", SETTINGS).dependencies
    repository.repro()
    lock: Any = read_yaml(repository.root / "dvc.lock")["stages"]
    for stage in ("one", "two"):
        lineage = stage_lineage(repository.root, stage, SETTINGS)
        assert lineage.dependencies == {item["path"]: item["md5"] for item in lock[stage]["deps"]}
        assert output_hashes(repository.root, stage) == {
            item["path"]: item["md5"] for item in lock[stage]["outs"]
        }
    assert before == {item["path"]: item["md5"] for item in lock["one"]["deps"]}
    assert before["data"].endswith(".dir")


def test_commit_and_changes(repository: Project, tmp_path: Path) -> None:
    commit, dirty = git_state(repository.root)
    assert commit == repository.run("git", "rev-parse", "HEAD").strip()
    assert not dirty
    (repository.root / "dvc.lock").write_text("changes at every stage\n")
    assert git_state(repository.root) == (commit, False)
    (repository.root / "data" / "new").write_text("untracked\n")
    assert git_state(repository.root) == (commit, True)
    assert git_state(tmp_path) == ("none", True)


def test_what_lies_above_a_study_is_a_key_that_mlflow_takes() -> None:
    lineage = Lineage(
        "c0ffee",
        False,
        "5e77",
        {"../../data/in": "a.dir", "models/sft": "b.dir", "../../rlhf/models": "code.dir"},
    )
    tags = {key: value for key, value in lineage.tags().items() if key.startswith("dvc.dep.")}
    assert tags == {"dvc.dep.data/in": "a.dir", "dvc.dep.models/sft": "b.dir"}


def test_a_missing_input_is_named_with_what_makes_it(repository: Project) -> None:
    with pytest.raises(RlhfError, match=r"one\.txt: missing, and two reads it"):
        stage_lineage(repository.root, "two", SETTINGS)


def test_outside_of_a_repository_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(RlhfError, match=r"is no git repository, .*`git init`"):
        stage_lineage(tmp_path, "one", SETTINGS)


def test_settings_of_a_stage_are_those_it_depends_on(repository: Project) -> None:
    pipeline = read_yaml(repository.root / "dvc.yaml")
    pipeline["stages"]["two"]["params"] = ["seed", "ppo.kl", "data.limits"]
    (repository.root / "dvc.yaml").write_text(write_yaml(pipeline))
    repository.repro("one")
    found = stage_lineage(repository.root, "two", SETTINGS).settings
    assert found["seed"] == SETTINGS.seed
    assert {key.split(".")[0] for key in found} == {"seed", "ppo", "data"}
    assert "ppo.kl.coefficient" in found
    assert "ppo.iterations" not in found


def test_a_setting_may_not_change_while_a_stage_runs_that_depends_on_it(
    repository: Project,
) -> None:
    run = TrackedRun(
        "one",
        repository.root,
        "run",
        "parent",
        "experiment",
        stage_lineage(repository.root, "one", SETTINGS),
        "1",
    )
    params = repository.root / "params.yaml"
    before = params.read_text()
    # the stage two depends on it, one does not
    params.write_text(edited(before, {"report.dialogues": 9}, "params.yaml"))
    refuse_changes(run)
    params.write_text(edited(before, {"seed": 9}, "params.yaml"))
    with pytest.raises(ChangedError, match=r"^seed: changed while one ran"):
        refuse_changes(run)


def test_a_plan_that_is_a_parameter_as_a_whole_may_not_change_while_its_stage_runs(
    repository: Project,
) -> None:
    root = repository.root
    (root / "dvc.yaml").write_text(
        "stages: {arm: {cmd: 'true', params: [seed, {arms/kl.yaml: null}], outs: [kl.json]}}\n"
    )
    (root / "params.yaml").write_text(preset_text("tiny"))
    with pytest.raises(RlhfError, match=r"arms/kl\.yaml: missing, and arm reads it"):
        stage_lineage(root, "arm", SETTINGS)
    (root / "arms").mkdir()
    (root / "arms" / "kl.yaml").write_text("seeds: [1, 2]\n")
    lineage = stage_lineage(root, "arm", SETTINGS)
    assert lineage.settings == {"seed": SETTINGS.seed}
    run = TrackedRun("arm", root, "run", "parent", "experiment", lineage, "1")
    refuse_changes(run)
    (root / "arms" / "kl.yaml").write_text("seeds: [3, 4]\n")
    with pytest.raises(ChangedError, match=r"^arms/kl\.yaml: changed while arm ran"):
        refuse_changes(run)


# a model, and beside the code of whoever reads it a file that stands for it
_THROUGH_A_STAND_IN = {
    "maker": {
        "cmd": "mkdir -p models/m && cat data/in > models/m/weights && cp data/in code/reader/m.json",
        "deps": ["data"],
        "outs": ["models/m", "code/reader/m.json"],
    },
    "reader": {"cmd": "touch read.txt", "deps": ["code/reader"], "outs": ["read.txt"]},
    "other": {"cmd": "touch another.txt", "deps": ["code/other"], "outs": ["another.txt"]},
}


@pytest.fixture
def with_stand_in(repository: Project) -> Project:
    """A project in which one stage reads another one's model through the folder of its own code."""
    root = repository.root
    (root / "dvc.yaml").write_text(write_yaml({"stages": _THROUGH_A_STAND_IN}))
    for folder in ("reader", "other"):
        (root / "code" / folder).mkdir(parents=True)
        (root / "code" / folder / "run").write_text("code")
    (root / ".gitignore").write_text("/models/\n/code/*/*.json\n/*.txt\n")
    repository.commit()
    return repository


def test_a_model_that_is_read_through_its_stand_in_is_part_of_the_lineage(
    with_stand_in: Project,
) -> None:
    root = with_stand_in.root
    ran = with_stand_in.ran(with_stand_in.repro("reader", "other"))
    assert ran.index("maker") < ran.index("reader")
    found = stage_lineage(root, "reader", SETTINGS).dependencies
    assert found.keys() == {"code/reader", "models/m"}
    assert found["models/m"] == output_hashes(root, "maker")["models/m"]
    assert stage_lineage(root, "other", SETTINGS).dependencies.keys() == {"code/other"}


def test_dvc_ties_a_reader_to_the_model_and_nobody_else(with_stand_in: Project) -> None:
    """What the files that stand for models are for."""
    with_stand_in.repro()
    (with_stand_in.root / "data" / "in").write_text("other bytes")
    stale = with_stand_in.run("dvc", "status", "other")
    assert "up to date" in stale
    assert with_stand_in.ran(with_stand_in.repro("other")) == []
    assert with_stand_in.ran(with_stand_in.repro()) == ["maker", "reader"]
    # git sees nothing new
    assert with_stand_in.run("git", "status", "--porcelain", "--", "code") == ""
