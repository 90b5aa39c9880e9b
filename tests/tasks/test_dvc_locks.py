"""No kill of DVC's bricks a workspace: what it left half-written, or in a dead one's name, is put aside."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from dvc.dvcfile import Lockfile
from dvc.exceptions import DvcException
from dvc.utils.strictyaml import load

from tasks.dvc_locks import holders
from tasks.repro import repro
from tests.project_copy import Project
from tests.waiting import SECONDS, wait_for_text, wait_until_gone

FIRST, SECOND = "Running stage 'one':", "Running stage 'two':"


def entry(pid: int, command: str = "dvc repro") -> dict[str, Any]:
    return {"pid": pid, "cmd": command}


def write_lock(root: Path, text: str) -> Path:
    path = root / ".dvc" / "tmp" / "rwlock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def looked(root: Path) -> tuple[list[str], list[str]]:
    """Who holds the workspace, and what was said."""
    lines: list[str] = []
    return holders(root, lines.append), lines


TORN = '{"write": {"/w/one.txt": {"pid": 12'


@pytest.mark.parametrize("text", ["", TORN], ids=["empty", "torn"])
def test_a_torn_lock_is_put_aside_with_one_line_and_the_chain_runs(
    repository: Project, text: str
) -> None:
    rwlock = write_lock(repository.root, text)
    # without us it fails, at once and for ever
    assert "rwlock" in repository.repro(code=255).lower()
    lines: list[str] = []
    repro(repository.root, [], {}, lines.append, wait=False)
    assert FIRST in lines and SECOND in lines
    assert sum("rwlock.torn" in line for line in lines) == 1
    assert rwlock.with_name("rwlock.torn").read_text() == text
    again: list[str] = []
    repro(repository.root, [], {}, again.append, wait=False)
    assert not any("rwlock" in line for line in again)


@pytest.mark.parametrize(
    "text",
    [
        "",
        TORN,
        "\0" * 40,
        "[]",
        '{"write": {"/w/one.txt": {"pid": "12", "cmd": "dvc repro"}}}',
        '{"write": {}, "read": {}}{"pid"',
    ],
)
def test_what_is_no_lock_is_put_aside_as_it_was(tmp_path: Path, text: str) -> None:
    rwlock = write_lock(tmp_path, text)
    living, lines = looked(tmp_path)
    assert living == [] and len(lines) == 1 and "rwlock.torn" in lines[0]
    assert rwlock.with_name("rwlock.torn").read_text() == text
    assert not rwlock.exists() and looked(tmp_path) == ([], [])


@pytest.mark.parametrize("kind", ["write", "read"])
def test_a_lock_whose_process_id_lives_again_is_taken_away(repository: Project, kind: str) -> None:
    others = entry(1), entry(os.getpid())
    paths = [str(repository.root / name) for name in ("one.txt", "two.txt")]
    entries = {
        path: info if kind == "write" else [info] for path, info in zip(paths, others, strict=True)
    }
    write_lock(repository.root, json.dumps({kind: entries}))
    lines: list[str] = []
    repro(repository.root, [], {}, lines.append, wait=False)
    assert (repository.root / "two.txt").read_text() == "in\n"
    told = [line for line in lines if "has ended" in line]
    assert len(told) == 2 and "process 1 (dvc repro)" in told[0]


def test_a_dvc_that_began_after_the_lock_was_written_is_another_one(tmp_path: Path) -> None:
    """As in a container that was started again: the same command under the same id."""
    with sleeping(tmp_path, "dvc", "repro") as pid:
        rwlock = write_lock(tmp_path, json.dumps({"write": {"/w/one": entry(pid, "dvc repro")}}))
        assert looked(tmp_path)[0] == [f"process {pid} (dvc repro)"]
        began = psutil.Process(pid).create_time()
        os.utime(rwlock, (began - 60, began - 60))
        living, lines = looked(tmp_path)
    assert living == [] and len(lines) == 1
    assert json.loads(rwlock.read_text()) == {"write": {}, "read": {}}


def test_only_the_dead_lose_their_locks(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with (
        sleeping(tmp_path, "dvc", "repro", "sft") as pid,
        sleeping(tmp_path, "program.py", "serve") as program,
    ):
        living = entry(pid, "/usr/bin/dvc repro sft")
        # DVC in a program that imports it, with the arguments that DVC saw
        inside = entry(program, "/srv/program.py serve")
        content = {
            "write": {"/w/a": living, "/w/b": entry(ended.pid), "/w/c": entry(1)},
            "read": {"/w/d": [entry(ended.pid), inside], "/w/e": [entry(1)]},
        }
        rwlock = write_lock(tmp_path, json.dumps(content))
        found, lines = looked(tmp_path)
        assert len(found) == 2 and "repro sft" in found[0] and "serve" in found[1]
        assert json.loads(rwlock.read_text()) == {
            "write": {"/w/a": living},
            "read": {"/w/d": [inside]},
        }
        assert len(lines) == 2
        assert looked(tmp_path) == (found, [])


def test_a_lock_too_deep_to_be_read_is_put_aside(tmp_path: Path) -> None:
    rwlock = write_lock(tmp_path, "[" * 100_000)
    living, lines = looked(tmp_path)
    assert living == [] and len(lines) == 1 and not rwlock.exists()


@pytest.mark.parametrize("pid", [-1, 0, 2**70])
def test_an_id_that_no_process_can_have_is_a_dead_one(tmp_path: Path, pid: int) -> None:
    rwlock = write_lock(tmp_path, json.dumps({"write": {"/w/one": entry(pid)}}))
    living, lines = looked(tmp_path)
    assert living == [] and len(lines) == 1 and f"process {pid} " in lines[0]
    assert json.loads(rwlock.read_text()) == {"write": {}, "read": {}}


def test_a_command_without_arguments_is_told_by_its_own_name(tmp_path: Path) -> None:
    with sleeping(tmp_path, "program.py") as pid:
        for command, holds in (("/srv/other.py", False), ("", False), ("program.py", True)):
            write_lock(tmp_path, json.dumps({"write": {"/w/one": entry(pid, command)}}))
            assert looked(tmp_path)[0] == [f"process {pid} ({command})"] * holds


def test_a_record_cut_anywhere_is_put_aside_where_dvc_refuses_it(tmp_path: Path) -> None:
    whole = (
        "schema: '2.0'\nstages:\n  one:\n    cmd: touch one\n    deps:\n    - path: data\n"
        "      hash: md5\n      md5: 4d5.dir\n      size: 3\n    params:\n      params.yaml:\n"
        "        report.title: größer\n    outs:\n    - path: one.txt\n      hash: md5\n"
        "      md5: 13b5\n  two:\n    cmd: touch two\n"
    ).encode()
    record = tmp_path / "dvc.lock"
    refused = 0
    for cut in range(len(whole) + 1):
        record.write_bytes(whole[:cut])
        try:
            load(str(record), Lockfile.SCHEMA)
        except DvcException:
            refused += 1
            assert len(looked(tmp_path)[1]) == 1 and not record.exists(), whole[:cut]
        else:
            assert looked(tmp_path) == ([], []) and record.exists(), whole[:cut]
    assert 50 < refused < len(whole)


def test_a_whole_record_of_another_version_of_dvc_is_left_alone(tmp_path: Path) -> None:
    record = tmp_path / "dvc.lock"
    record.write_text("schema: '3.0'\nsteps: {}\n")
    assert looked(tmp_path) == ([], [])
    assert record.exists()


# a cut at every byte is above
@pytest.mark.parametrize("share", [0.0, 0.6])
def test_a_torn_record_of_dvc_is_put_aside_and_finished_stages_come_back(
    repository: Project, share: float
) -> None:
    repository.repro()
    record = repository.root / "dvc.lock"
    whole = record.read_text()
    record.write_text(whole[: int(share * len(whole))])
    (repository.root / "two.txt").unlink()
    lines: list[str] = []
    repro(repository.root, [], {}, lines.append, wait=False)
    assert record.read_text() == whole
    assert (repository.root / "two.txt").read_text() == "in\n"
    if share == 0:
        assert sum("dvc.lock.torn" in line for line in lines) == 1
        assert not any(line.startswith("Running stage") for line in lines)


def test_a_merge_that_is_not_ended_is_left_to_its_author(tmp_path: Path) -> None:
    record = tmp_path / "dvc.lock"
    record.write_text("schema: '2.0'\n<<<<<<< HEAD\nstages: {}\n=======\nstages:\n>>>>>>> theirs\n")
    assert looked(tmp_path) == ([], [])
    assert record.exists()


def test_after_a_kill_of_dvc_and_its_stage_the_next_run_goes_on(repository: Project) -> None:
    hold = repository.hold()
    by_hand = repository.start("dvc", "repro")
    rwlock = repository.root / ".dvc" / "tmp" / "rwlock"
    wait_for_text(rwlock, "one.txt")
    os.killpg(by_hand.pid, signal.SIGKILL)
    by_hand.communicate(timeout=SECONDS)
    wait_until_gone(by_hand.pid)
    hold.unlink()
    # the moment at which the file is empty is too short to meet by a kill
    rwlock.write_text("")
    repro(repository.root, [], {}, print, wait=False)
    assert (repository.root / "two.txt").read_text() == "in\n"


@contextmanager
def sleeping(folder: Path, name: str, *arguments: str) -> Iterator[int]:
    """A process that sleeps as `python NAME ARGUMENTS`; gives its id."""
    program = folder / name
    program.write_text("import time; print('up', flush=True); time.sleep(600)")
    process = subprocess.Popen(
        [sys.executable, str(program), *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()
