"""A stage that the settings leave out leaves its outputs, and what reads them says that it is off."""

import json
import shutil
from pathlib import Path

import pytest
from dvc.repo import Repo

from rlhf.commands.code_links import write_links
from rlhf.commands.overview import stage_states
from rlhf.common.errors import RlhfError
from rlhf.common.files import weights_sha256
from rlhf.common.yaml import read_yaml, write_yaml
from rlhf.core.steps import read_steps
from rlhf.settings import preset_text
from rlhf.settings.edit import edited
from rlhf.settings.variants import VARIANTS
from rlhf.stage import stand_in
from rlhf.stages import STAGES
from rlhf.workspace import OFF_FILE, Workspace
from tasks.optional_stages import is_off, leave_empty, listed_outs, write_stand_ins
from tests.source_tree import ROOT

RTO, DPO = stand_in("rto", "dpo"), stand_in("dpo", "dpo")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Settings and dvc.yaml of a clone, nothing else."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text(preset_text("tiny"))
    return Workspace(tmp_path)


def switch_on(workspace: Workspace) -> None:
    text = edited(workspace.params.read_text(), VARIANTS["rto"], "tiny")
    workspace.params.write_text(text)


def test_the_settings_say_whether_it_is_off(workspace: Workspace) -> None:
    assert is_off(workspace.root, "dpo")
    off = {name for name in STAGES if is_off(workspace.root, name)}
    assert off == {"dpo", "process"}
    switch_on(workspace)
    assert not is_off(workspace.root, "dpo")


def test_all_that_dvc_wants_is_there_and_empty(workspace: Workspace) -> None:
    leave_empty(workspace.root, "dpo")
    outs = listed_outs(workspace.root, "dpo")
    assert len(outs) == 8 and all((workspace.root / path).exists() for path in outs)
    assert [path.name for path in workspace.model("dpo").iterdir()] == [OFF_FILE]
    for path in (workspace.metrics("dpo"), workspace.details("dpo"), workspace.key_figures("dpo")):
        assert json.loads(path.read_text()) == {}
    assert read_steps(workspace.steps("dpo")) == []
    assert json.loads(workspace.plot_data("dpo").read_text()) == []
    for path in (RTO, DPO):
        content = json.loads((workspace.root / path).read_text())
        assert content == {"model": "models/dpo", "sha256": None}
    # a file without a byte would have DVC warn at each run
    files = [path for path in (workspace.root / "metrics").iterdir() if path.stat().st_size == 0]
    assert files == []


def test_what_an_earlier_run_left_goes(workspace: Workspace) -> None:
    workspace.model("dpo").mkdir(parents=True)
    (workspace.model("dpo") / "model.safetensors").write_bytes(b"weights")
    write_stand_ins(workspace.root, "dpo")
    before = json.loads((workspace.root / RTO).read_text())
    assert before["sha256"] == weights_sha256(workspace.model("dpo"))
    leave_empty(workspace.root, "dpo")
    assert json.loads((workspace.root / RTO).read_text())["sha256"] is None
    assert [path.name for path in workspace.model("dpo").iterdir()] == [OFF_FILE]


def test_the_hash_is_that_of_the_weights_alone(workspace: Workspace) -> None:
    directory = workspace.model("dpo")
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(b"weights")
    write_stand_ins(workspace.root, "dpo")
    first = (workspace.root / RTO).read_text()
    (directory / "dpo_model.json").write_text("{}")
    write_stand_ins(workspace.root, "dpo")
    assert (workspace.root / RTO).read_text() == first
    (directory / "model.safetensors").write_bytes(b"other weights")
    write_stand_ins(workspace.root, "dpo")
    assert (workspace.root / RTO).read_text() != first


def test_what_dvc_yaml_does_not_list_is_not_written(workspace: Workspace) -> None:
    """As in a study, whose code is that of the workspace around it."""
    content = read_yaml(workspace.root / "dvc.yaml")
    entry = content["stages"]["dpo"]
    kept = [path for path in entry["outs"] if path not in (RTO, DPO)]
    # an output with options is a mapping
    entry["outs"] = [{kept[0]: {"persist": True}}, *kept[1:]]
    (workspace.root / "dvc.yaml").write_text(write_yaml(content))
    leave_empty(workspace.root, "dpo")
    assert not (workspace.root / "rlhf").exists()
    assert (workspace.model("dpo") / OFF_FILE).is_file()


def test_an_output_that_cannot_be_empty_is_named(workspace: Workspace) -> None:
    content = read_yaml(workspace.root / "dvc.yaml")
    content["stages"]["dpo"]["outs"].append("data/pairs.parquet")
    (workspace.root / "dvc.yaml").write_text(write_yaml(content))
    with pytest.raises(RlhfError, match=r"data/pairs\.parquet: dpo is off, and there is no empty"):
        leave_empty(workspace.root, "dpo")


def test_it_is_done_and_off_for_those_who_list_stages(workspace: Workspace) -> None:
    def state() -> tuple[bool, bool]:
        (found,) = (one for one in stage_states(workspace) if one.name == "dpo")
        return found.done, found.off

    assert state() == (False, False)
    leave_empty(workspace.root, "dpo")
    assert state() == (True, True)
    workspace.metrics("dpo").write_text('{"accuracy": 0.9}')
    assert state() == (True, False)


# -- the files that stand for its model -----------------------------------------------------------


def test_new_links_leave_them_where_they_are(tmp_path: Path) -> None:
    """`make dvc.yaml` in a workspace in which stages have run."""
    write_links(tmp_path)
    for path in (RTO, DPO):
        (tmp_path / path).write_text("{}")
    gone = tmp_path / "rlhf" / ".code" / "algorithms" / "gone"
    gone.mkdir()
    (gone / "algorithms.gone").symlink_to("../../../../nothing.py")
    write_links(tmp_path)
    assert all((tmp_path / path).read_text() == "{}" for path in (RTO, DPO))
    assert not gone.exists()
    links = {path.name for path in (tmp_path / RTO).parent.iterdir() if path.is_symlink()}
    assert "algorithms.rto" in links


def test_git_does_not_see_them() -> None:
    """Or each run would change what is committed."""
    with Repo(str(ROOT)) as repo:
        assert all(repo.scm.is_ignored(str(ROOT / path)) for path in (RTO, DPO))
