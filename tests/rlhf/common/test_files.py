import errno
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from rlhf.common.errors import DataError
from rlhf.common.files import (
    read_json,
    sha256,
    staged_directory,
    tree_bytes,
    tree_sha256,
    write_json,
    write_text,
    writing,
)


def test_a_written_file_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.json"
    write_json(path, {"b": 1, "a": "ä"})
    assert read_json(path) == {"a": "ä", "b": 1}
    with pytest.raises(ValueError):
        write_json(path, {"a": float("nan")})
    assert read_json(path) == {"a": "ä", "b": 1}
    assert [item.name for item in path.parent.iterdir()] == ["file.json"]


def test_json_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    with pytest.raises(DataError, match=r"metrics\.json: no such file"):
        read_json(path)
    path.write_text('{\n"a": 1,\n}')
    with pytest.raises(DataError, match=r"metrics\.json:3: not JSON"):
        read_json(path)
    path.write_text("[1]")
    with pytest.raises(DataError, match="expected a JSON object, found list"):
        read_json(path)


def test_a_staged_directory_appears_at_the_end(tmp_path: Path) -> None:
    final = tmp_path / "models" / "sft"
    with staged_directory(final) as directory:
        write_text(directory / "weights", "new")
        assert not final.exists()
    assert (final / "weights").read_text() == "new"
    assert list(final.parent.iterdir()) == [final]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_staged_directory_that_fails_leaves_the_former_one(
    tmp_path: Path, fault: type[BaseException]
) -> None:
    final = tmp_path / "sft"
    final.mkdir()
    (final / "weights").write_text("old")
    with pytest.raises(fault), staged_directory(final) as directory:
        (directory / "weights").write_text("half")
        raise fault
    assert (final / "weights").read_text() == "old"
    with staged_directory(final) as directory:
        (directory / "other").write_text("new")
    assert [item.name for item in final.iterdir()] == ["other"]
    assert list(tmp_path.iterdir()) == [final]


def test_what_is_written_is_readable_as_the_umask_says(tmp_path: Path) -> None:
    with staged_directory(tmp_path / "model") as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "weights").touch(mode=0o600)
    granted = (tmp_path / "model").stat().st_mode & 0o666
    assert (tmp_path / "model" / "sub" / "weights").stat().st_mode & 0o777 == granted


def test_left_overs_of_killed_runs_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".sft.partial-1").mkdir()
    (tmp_path / ".sft.partial-1-former").mkdir()
    (tmp_path / ".reward.partial-1").mkdir()  # another model's: may be in the making
    with staged_directory(tmp_path / "sft"):
        pass
    assert sorted(item.name for item in tmp_path.iterdir()) == [".reward.partial-1", "sft"]


def test_errors_of_a_full_disk_name_the_file() -> None:
    with pytest.raises(OSError) as caught, writing(Path("models/sft")):
        Path("/dev/full").write_text("x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "models/sft")
    with pytest.raises(OSError) as caught, writing(Path("models/sft")):
        save_file({"a": torch.zeros(1)}, "/nowhere/weights.safetensors")
    assert caught.value.filename == "models/sft" and caught.value.strerror
    with pytest.raises(FileNotFoundError) as missing, writing(Path("models/sft")):
        Path("/nowhere/file").read_text()
    assert missing.value.filename == "/nowhere/file"  # what is named already keeps its name


def test_hashes_follow_names_and_contents(tmp_path: Path) -> None:
    for name, text in (
        ("a/x", "1"),
        ("a/y", "2"),
        ("b/x", "1"),
        ("b/y", "2"),
        ("c/x", "2"),
        ("c/y", "1"),
    ):
        write_text(tmp_path / name, text)
    assert tree_sha256(tmp_path / "a") == tree_sha256(tmp_path / "b") != tree_sha256(tmp_path / "c")
    write_text(tmp_path / "b" / ".hidden", "")
    assert tree_sha256(tmp_path / "a") != tree_sha256(tmp_path / "b")
    file = tmp_path / "a" / "x"
    assert (
        tree_sha256(file)
        == sha256(file)
        == "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b"
    )
    assert tree_bytes(tmp_path / "a") == 2
