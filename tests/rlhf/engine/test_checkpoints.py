import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from rlhf.common.files import read_json
from rlhf.engine import checkpoints as checkpoints_module
from rlhf.engine.checkpoints import REGISTRY, Checkpoints, differences, fingerprint
from rlhf.workspace import Workspace


def touch(directory: Path) -> None:
    (directory / "state").write_text("x", encoding="utf-8")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_the_newest_counts_and_one_before_it_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "sft", "key")
    assert checkpoints.latest() is None
    for step in (8, 9, 10):
        checkpoints.save(step, touch)
    assert checkpoints.latest() == (10, checkpoints.directory / "step-00000010")
    assert names(checkpoints.directory) == ["step-00000009", "step-00000010"]
    # nothing will be written to the newest any more
    checkpoints.finish(keep=True)
    assert names(checkpoints.directory) == ["kept", "step-00000010"]


def test_one_beyond_the_step_that_was_resumed_goes(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "sft", "key")
    for step in (4, 8, 6):
        checkpoints.save(step, touch)
    assert names(checkpoints.directory) == ["step-00000004", "step-00000006"]


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "flipped": (lambda path: flip_a_bit(path / "state"), "state has another hash"),
    "truncated": (lambda path: os.truncate(path / "state", 0), "state has another hash"),
    "lost": (lambda path: (path / "state").unlink(), "state is missing"),
    "no hashes": (lambda path: (path / "sha256.json").unlink(), "sha256.json is missing"),
    "torn hashes": (lambda path: os.truncate(path / "sha256.json", 9), "sha256.json.*not JSON"),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGE.values(), ids=list(DAMAGE))
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    told: str,
) -> None:
    checkpoints = Checkpoints(tmp_path, "sft", "key")
    checkpoints.save(1, touch)
    checkpoints.save(2, touch)
    before, newest = sorted(checkpoints.directory.glob("step-*"))
    damage(newest)
    assert checkpoints.latest() == (1, before)
    assert re.search(f"{newest} is damaged, and not resumed from: .*{told}", caplog.text)
    damage(before)
    assert checkpoints.latest() is None
    assert "is whole: begins anew" in caplog.text


def test_what_another_host_wrote_counts_though_it_is_not_listed_here_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shared disk may list a file late; the host that wrote it knows its name."""
    checkpoints = Checkpoints(tmp_path, "sft", "key")
    listed = Path.rglob

    def late(directory: Path, pattern: str) -> list[Path]:
        return [path for path in listed(directory, pattern) if path.name != "state"]

    def of_two_hosts(items: Sequence[Any]) -> list[Any]:
        known = ["state"] if all(isinstance(item, str) for item in items) else []
        return [*items, *known]

    monkeypatch.setattr(Path, "rglob", late)
    monkeypatch.setattr(checkpoints_module, "all_gather", of_two_hosts)
    checkpoints.save(1, touch)
    hashes = read_json(checkpoints.directory / "step-00000001" / "sha256.json")
    assert set(hashes) == {"state"}


def test_all_hosts_resume_from_the_step_that_the_main_one_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path, "sft", "key")
    for step in (1, 2):
        checkpoints.save(step, touch)
    seen = [(step, checkpoints.directory / f"step-{step:08d}") for step in (1, 2)]
    # here the last one is not listed yet
    monkeypatch.setattr(checkpoints, "_complete", lambda: seen[:1])
    monkeypatch.setattr(checkpoints_module, "is_main", lambda: False)
    gather = checkpoints_module.all_gather
    monkeypatch.setattr(checkpoints_module, "all_gather", lambda items: gather(items or [seen]))
    assert checkpoints.latest() == seen[1]


def test_another_key_or_stage_sees_nothing(tmp_path: Path) -> None:
    Checkpoints(tmp_path, "sft", "key").save(1, touch)
    assert Checkpoints(tmp_path, "sft", "other").latest() is None
    assert Checkpoints(tmp_path, "reward", "key").latest() is None


def test_only_checkpoints_of_a_finished_run_may_be_removed(tmp_path: Path) -> None:
    """A long run that was interrupted goes on after a short one with other settings has ended."""
    workspace = Workspace(tmp_path)
    for stage, key in (("sft", "a"), ("sft", "b"), ("reward", "a")):
        Checkpoints(workspace.checkpoints, stage, key).save(1, touch)
    assert workspace.finished_checkpoints(but="reward") == []
    done = Checkpoints(workspace.checkpoints, "sft", "a")
    done.finish()
    assert workspace.finished_checkpoints(but="reward") == [done.directory]
    assert workspace.finished_checkpoints(but="sft") == []
    # until then a run that is repeated goes on from it
    assert done.latest() == (1, done.directory / "step-00000001")
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
    assert names(checkpoints.directory) == ["step-00000001", "step-00000003"]


def test_a_killed_writer_leaves_no_visible_checkpoint(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, "sft", "key")
    checkpoints.save(1, touch)
    fork = multiprocessing.get_context("fork")
    writing = fork.Event()

    def write(directory: Path) -> None:
        touch(directory)
        writing.set()
        # until it is killed
        signal.pause()

    writer = fork.Process(target=checkpoints.save, args=(2, write))
    writer.start()
    assert writing.wait(600)
    writer.kill()
    writer.join()
    assert checkpoints.latest() == (1, checkpoints.directory / "step-00000001")
    checkpoints.save(2, touch)
    assert names(checkpoints.directory) == ["step-00000001", "step-00000002"]
    assert names(checkpoints.directory / "step-00000002") == ["sha256.json", "state"]


MODULES = ["rlhf.ppo.kl"]


@pytest.fixture
def inputs(tmp_path: Path) -> dict[str, Path]:
    """A file and a directory that a stage reads."""
    data, model = tmp_path / "table.parquet", tmp_path / "model"
    data.write_bytes(b"rows")
    model.mkdir()
    (model / "weights").write_bytes(b"w")
    return {"table": data, "model": model}


def test_a_fingerprint_is_the_same_for_the_same_run(inputs: dict[str, Path]) -> None:
    first = fingerprint("sft", {"seed": 1}, inputs, MODULES)
    in_another_order = dict(reversed(inputs.items()))
    assert fingerprint("sft", {"seed": 1}, in_another_order, MODULES) == first

    weights = inputs["model"] / "weights"
    weights.write_bytes(b"v")
    assert fingerprint("sft", {"seed": 1}, inputs, MODULES) != first
    weights.write_bytes(b"w")
    assert fingerprint("sft", {"seed": 1}, inputs, MODULES) == first


def test_a_fingerprint_depends_on_all_that_the_numbers_depend_on(inputs: dict[str, Path]) -> None:
    weights = inputs["model"] / "weights"
    found = [
        fingerprint("sft", {"seed": 1}, inputs, MODULES),
        # the stage, its settings, the source that it runs
        fingerprint("reward", {"seed": 1}, inputs, MODULES),
        fingerprint("sft", {"seed": 2}, inputs, MODULES),
        fingerprint("sft", {"seed": 1}, inputs, ["rlhf.ppo.losses"]),
        fingerprint("sft", {"seed": 1}, inputs, [*MODULES, "rlhf.ppo.losses"]),
    ]
    # the content of a file, its name, and the name of an input
    weights.write_bytes(b"v")
    found.append(fingerprint("sft", {"seed": 1}, inputs, MODULES))
    weights.write_bytes(b"w")
    weights.rename(inputs["model"] / "renamed")
    found.append(fingerprint("sft", {"seed": 1}, inputs, MODULES))
    renamed = {"table": inputs["table"], "start": inputs["model"]}
    found.append(fingerprint("sft", {"seed": 1}, renamed, MODULES))
    assert len(set(found)) == len(found) == 8


def test_differences_say_what_a_user_can_change(inputs: dict[str, Path]) -> None:
    def parts(algorithm: str, *names: tuple[str, str]) -> Mapping[str, Any]:
        chosen = {"ppo": {"algorithm": algorithm}, REGISTRY: list(names)}
        return fingerprint("ppo", chosen, inputs, MODULES).parts

    before = parts("ppo-max", ("ppo-max", "rlhf.a:Max"), ("local", "rlhf.s:Local"))
    other = parts("apa", ("apa", "rlhf.b:Apa"), ("local", "rlhf.s:Local"))
    assert differences(before, other) == ["settings: ppo.algorithm (ppo-max, now apa)"]
    moved = parts("ppo-max", ("ppo-max", "rlhf.a:Mine"), ("local", "rlhf.s:Local"))
    assert differences(before, moved) == ["code: ppo-max stands for rlhf.a:Mine, not rlhf.a:Max"]


def test_a_key_that_one_side_lacks_comes_behind_those_that_changed(
    inputs: dict[str, Path],
) -> None:
    before, now = (
        fingerprint("ppo", settings, inputs, MODULES).parts
        for settings in ({"engine": {"kind": "torch"}, "seed": 1}, {"cap": None, "seed": 2})
    )
    assert differences(before, now) == [
        "settings: seed (1, now 2)",
        "cap (not there, now None)",
        "engine.kind (torch, now not there)",
    ]


def test_a_run_with_many_other_settings_names_the_first_and_how_many_more(
    tmp_path: Path, inputs: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    def parts(value: int) -> Mapping[str, Any]:
        settings = {f"key-{number}": value for number in range(8)}
        return fingerprint("ppo", settings, inputs, MODULES).parts

    Checkpoints(tmp_path, "ppo", "before", parts(1)).save(1, touch)
    with caplog.at_level("INFO", logger="rlhf"):
        assert Checkpoints(tmp_path, "ppo", "now", parts(2)).latest() is None
    (told,) = caplog.messages
    assert "begins anew" in told
    assert told.count("(1, now 2)") == 6 and told.count("settings: ") == 1
    assert told.endswith("; and 2 more")
