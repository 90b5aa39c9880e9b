import shutil
from pathlib import Path

import pytest

from rlhf.common.errors import RlhfError
from rlhf.common.yaml import read_yaml, write_yaml
from tasks.orders import (
    changed_files,
    check_out,
    fill_order,
    needed_stages,
    place_order,
    refuse_unready,
    stages_before,
    take_over,
    why_stale,
)
from tasks.repro import ReproFailed
from tests.project_copy import Project


def head(project: Project) -> str:
    return project.run("git", "rev-parse", "HEAD").strip()


def lock(project: Project) -> Path:
    return project.root / "dvc.lock"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small project, of which the first stage is up to date."""
    project = Project.small(tmp_path_factory.mktemp("made") / "project")
    # DVC has its outputs ignored by git then
    project.repro()
    table = read_yaml(lock(project))
    del table["stages"]["two"]
    lock(project).write_text(write_yaml(table))
    (project.root / "two.txt").unlink()
    return project.root


@pytest.fixture
def caller(made: Path, tmp_path: Path) -> Project:
    """A copy of it with a remote of DVC."""
    project = Project(tmp_path / "caller")
    shutil.copytree(made, project.root)
    project.run("dvc", "remote", "add", "--default", "shared", str(tmp_path / "remote"))
    project.commit()
    return project


@pytest.fixture
def clone(caller: Project, tmp_path: Path) -> Project:
    """A clone of it, which has the code alone."""
    root = tmp_path / "another" / "folder"
    caller.run("git", "clone", "--quiet", str(caller.root), str(root))
    return Project(root)


def test_stages_are_listed_in_the_order_in_which_they_can_run(repository: Project) -> None:
    table = read_yaml(repository.root / "dvc.yaml")["stages"]
    turned = {name: table[name] for name in ("two", "one")}
    (repository.root / "dvc.yaml").write_text(write_yaml({"stages": turned}))
    assert needed_stages(repository.root, []) == ["one", "two"]
    assert needed_stages(repository.root, ["one"]) == ["one"]
    assert stages_before(repository.root, "two") == ["one"]


def test_what_a_clone_makes_is_up_to_date_where_it_was_ordered(
    caller: Project, clone: Project
) -> None:
    order = place_order(caller.root, "two")
    entry = fill_order(clone.root, order, print)
    take_over(caller.root, "two", entry)
    assert (caller.root / "two.txt").read_text() == "in\n"
    assert caller.ran(caller.repro()) == []
    sent = lock(caller).read_text()
    caller.repro("--force", "--single-item", "two")
    assert lock(caller).read_text() == sent


def test_a_stage_that_reads_nothing_of_others_brings_nothing(
    caller: Project, clone: Project
) -> None:
    # an empty list would mean all that there is
    fill_order(clone.root, place_order(caller.root, "one"), print)
    assert not (clone.root / "two.txt").exists()


def test_a_lock_file_that_the_caller_does_not_have_is_none_in_the_clone(
    caller: Project, clone: Project
) -> None:
    shutil.copyfile(lock(caller), lock(clone))
    lock(caller).unlink()
    order = place_order(caller.root, "one")
    assert order.lock == ""
    fill_order(clone.root, order, print)
    assert set(read_yaml(lock(clone))["stages"]) == {"one"}


def test_what_was_made_from_something_else_is_not_taken_over(
    caller: Project, clone: Project
) -> None:
    entry = fill_order(clone.root, place_order(caller.root, "two"), print)
    before = lock(caller).read_text()
    other = entry.replace(read_yaml(lock(caller))["stages"]["one"]["outs"][0]["md5"], "a" * 32, 1)
    with pytest.raises(RlhfError, match=r"two as the worker made it .*changed deps: one\.txt"):
        take_over(caller.root, "two", other)
    assert lock(caller).read_text() == before
    assert why_stale(caller.root, "two")


def test_bytes_that_nobody_has_leave_the_lock_file(caller: Project, clone: Project) -> None:
    entry = fill_order(clone.root, place_order(caller.root, "two"), print)
    before = lock(caller).read_text()
    shutil.rmtree(caller.root.parent / "remote")
    with pytest.raises(RlhfError, match="DVC's remote"):
        take_over(
            caller.root,
            "two",
            entry.replace(
                "two.txt\n    hash: md5\n    md5: ", "two.txt\n    hash: md5\n    md5: 0"
            ),
        )
    assert lock(caller).read_text() == before


def test_settings_and_lock_file_of_the_clone_are_kept_once(caller: Project, clone: Project) -> None:
    (clone.root / "params.yaml").write_text("mine: 1\n")
    order = place_order(caller.root, "one")
    for _ in range(2):
        fill_order(clone.root, order, print)
        (clone.root / "params.yaml").write_text("mine: 1\n")
    (kept,) = (clone.root / "logs").glob("params-*.yaml")
    assert kept.read_text() == "mine: 1\n"


def test_a_commit_is_brought_from_the_remotes(caller: Project, clone: Project) -> None:
    (caller.root / "data" / "in").write_text("more\n")
    caller.commit()
    check_out(clone.root, head(caller))
    assert (clone.root / "data" / "in").read_text() == "more\n"
    with pytest.raises(RlhfError, match=r"commit 0{12} is in none of the remotes.*push it first"):
        check_out(clone.root, "0" * 40)


def test_a_changed_clone_is_refused_at_the_same_commit_too(clone: Project) -> None:
    (clone.root / "data" / "in").write_text("mine\n")
    with pytest.raises(RlhfError, match="data/in not as committed"):
        check_out(clone.root, head(clone))


def test_what_counts_as_changed(caller: Project) -> None:
    (caller.root / "notes.txt").touch()
    (caller.root / "params.yaml").write_text("sent: as text\n")
    (caller.root / "rlhf").mkdir()
    (caller.root / "rlhf" / "mine.py").touch()
    (caller.root / "dvc.yaml").write_text("stages: {}\n")
    assert changed_files(caller.root) == ["dvc.yaml", "rlhf/mine.py"]


def test_a_store_that_cannot_be_reached_is_worth_another_try(
    caller: Project, unanswered: str
) -> None:
    caller.run("dvc", "remote", "modify", "shared", "url", "s3://bucket/rlhf")
    caller.run("dvc", "remote", "modify", "shared", "endpointurl", f"http://{unanswered}")
    for key in ("access_key_id", "secret_access_key"):
        caller.run("dvc", "remote", "modify", "--local", "shared", key, "key")
    caller.run("dvc", "remote", "modify", "shared", "read_timeout", "1")
    caller.commit()
    with pytest.raises(ReproFailed, match="DVC's remote: "):
        place_order(caller.root, "two")


def test_without_a_remote_it_is_said_how_to_add_one(caller: Project) -> None:
    caller.run("dvc", "remote", "remove", "shared")
    caller.commit()
    with pytest.raises(RlhfError, match="dvc remote add --default"):
        place_order(caller.root, "two")


def test_a_commit_that_is_not_pushed_is_refused_at_once(caller: Project, tmp_path: Path) -> None:
    # without any remote a worker on this machine fetches from here
    refuse_unready(caller.root)
    caller.run("git", "init", "--quiet", "--bare", str(tmp_path / "origin.git"))
    caller.run("git", "remote", "add", "origin", str(tmp_path / "origin.git"))
    caller.run("git", "push", "--quiet", "origin", "HEAD:main")
    refuse_unready(caller.root)

    (caller.root / "data" / "in").write_text("more\n")
    caller.commit()
    with pytest.raises(RlhfError) as refused:
        place_order(caller.root, "one")
    commit = head(caller)[:12]
    assert f"commit {commit} is on no branch of origin that this clone knows of" in str(
        refused.value
    )
    assert "git push it first" in str(refused.value)

    # another branch will do: the worker fetches all
    caller.run("git", "push", "--quiet", "origin", "HEAD:try")
    refuse_unready(caller.root)


def test_a_worker_gets_a_model_that_is_read_through_its_stand_in(
    caller: Project, tmp_path: Path
) -> None:
    """The model is no dependency of the stage: a file beside its code stands for it."""
    content = read_yaml(caller.root / "dvc.yaml")
    content["stages"]["one"] = {
        "cmd": "mkdir -p models/m && cat data/in > models/m/weights && cp data/in code/m.json",
        "deps": ["data"],
        "outs": ["models/m", "code/m.json"],
    }
    content["stages"]["two"] = {
        "cmd": "cat models/m/weights > two.txt",
        "deps": ["code"],
        "outs": ["two.txt"],
    }
    (caller.root / "dvc.yaml").write_text(write_yaml(content))
    (caller.root / "code").mkdir()
    (caller.root / "code" / "run").write_text("code")
    (caller.root / ".gitignore").write_text("/models/\n/code/*.json\n/*.txt\n")
    caller.repro("one")
    caller.commit()
    clone = tmp_path / "another" / "folder"
    caller.run("git", "clone", "--quiet", str(caller.root), str(clone))
    entry = fill_order(clone, place_order(caller.root, "two"), print)
    assert (clone / "models" / "m" / "weights").read_text() == "in\n"
    assert (clone / "code" / "m.json").read_text() == "in\n"
    take_over(caller.root, "two", entry)
    assert (caller.root / "two.txt").read_text() == "in\n"
    assert why_stale(caller.root, "two") == ""
