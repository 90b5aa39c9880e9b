import multiprocessing
import time
from pathlib import Path

import pytest

from rlhf.engine.checkpoints import Checkpoints, fingerprint
from rlhf.workspace import Workspace


def touch(directory: Path) -> None:
    (directory / "state").write_text("x", encoding="utf-8")


def test_the_newest_counts_and_older_ones_go(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "sft", "key")
    assert checkpoints.latest() is None
    checkpoints.save(9, touch)
    checkpoints.save(10, touch)
    found = checkpoints.latest()
    assert found == (10, checkpoints.directory / "step-00000010")
    assert [path.name for path in checkpoints.directory.iterdir()] == ["step-00000010"]


def test_another_key_or_stage_sees_nothing(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "sft", "key").save(1, touch)
    assert Checkpoints(tmp_path, "sft", "other").latest() is None
    assert Checkpoints(tmp_path, "reward", "key").latest() is None


def test_only_checkpoints_of_a_finished_run_may_be_removed(tmp_path: Path) -> None:
    """A long run that was interrupted still goes on after a short one with other settings has ended."""
    workspace = Workspace(tmp_path)
    for stage, key in (("sft", "a"), ("sft", "b"), ("reward", "a")):
        Checkpoints(workspace.checkpoints, stage, key).save(1, touch)
    assert workspace.finished_checkpoints(but="reward") == []
    done = Checkpoints(workspace.checkpoints, "sft", "a")
    done.finish()
    assert workspace.finished_checkpoints(but="reward") == [done.directory]
    assert workspace.finished_checkpoints(but="sft") == []
    assert done.latest() == (
        1,
        done.directory / "step-00000001",
    )  # until then a run that is repeated goes on from it
    Checkpoints(workspace.checkpoints, "sft", "none").finish()
    assert workspace.finished_checkpoints(but="reward") == [done.directory]


def test_a_failed_write_leaves_the_one_before(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "sft", "key")
    checkpoints.save(1, touch)

    def fail(directory: Path) -> None:
        touch(directory)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoints.save(2, fail)
    assert checkpoints.latest() == (1, checkpoints.directory / "step-00000001")
    checkpoints.save(3, touch)
    assert [path.name for path in checkpoints.directory.iterdir()] == ["step-00000003"]


def test_a_killed_writer_leaves_no_visible_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "sft", "key")
    checkpoints.save(1, touch)
    fork = multiprocessing.get_context("fork")
    writing = fork.Event()

    def write(directory: Path) -> None:
        touch(directory)
        writing.set()
        time.sleep(60)

    writer = fork.Process(target=checkpoints.save, args=(2, write))
    writer.start()
    assert writing.wait(600)
    writer.kill()
    writer.join()
    assert checkpoints.latest() == (1, checkpoints.directory / "step-00000001")
    checkpoints.save(2, touch)
    assert [path.name for path in checkpoints.directory.iterdir()] == ["step-00000002"]
    assert [path.name for path in (checkpoints.directory / "step-00000002").iterdir()] == ["state"]


def test_fingerprint_depends_on_all_that_the_numbers_depend_on(tmp_path: Path) -> None:
    data, model = tmp_path / "table.parquet", tmp_path / "model"
    data.write_bytes(b"rows")
    model.mkdir()
    (model / "weights").write_bytes(b"w")
    inputs = {"table": data, "model": model}
    first = fingerprint("sft", {"seed": 1}, inputs)
    assert fingerprint("sft", {"seed": 1}, dict(reversed(inputs.items()))) == first
    others = {fingerprint("reward", {"seed": 1}, inputs), fingerprint("sft", {"seed": 2}, inputs)}
    (model / "weights").write_bytes(b"v")
    others.add(fingerprint("sft", {"seed": 1}, inputs))
    (model / "weights").write_bytes(b"w")
    assert fingerprint("sft", {"seed": 1}, inputs) == first
    (model / "weights").rename(model / "renamed")
    others.add(fingerprint("sft", {"seed": 1}, inputs))
    assert len(others) == 4 and first not in others
