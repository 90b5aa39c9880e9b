"""Cores that a container grants, by the files of both versions of control groups."""

import os
from pathlib import Path

import pytest

from rlhf.core.cores import usable_cores

ALL = len(os.sched_getaffinity(0))


def groups(folder: Path, own: str, files: dict[str, str]) -> tuple[Path, Path]:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "own").write_text(own)
    return folder, folder / "own"


@pytest.mark.parametrize(
    ("own", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, ALL),
        # a group above is the narrower one
        ("0::/a/b\n", {"a/cpu.max": "100000 100000\n", "a/b/cpu.max": "max 100000\n"}, 1),
        # as seen inside of a container: the path is the host's
        ("0::/docker/0123\n", {"cpu.max": "80000 100000\n"}, 1),
        # version 1
        (
            "4:cpu,cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"},
            1,
        ),
        (
            "4:cpu,cpuacct:/\n",
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            ALL,
        ),
        ("0::/\n", {"cpu.max": f"{ALL * 300_000} 100000\n"}, ALL),
        ("0::/\n", {"cpu.max": "what\n"}, ALL),
        ("", {}, ALL),
    ],
)
def test_the_narrowest_limit_counts(
    tmp_path: Path, own: str, files: dict[str, str], cores: int
) -> None:
    assert usable_cores(*groups(tmp_path, own, files)) == cores


def test_a_part_of_a_core_is_one(tmp_path: Path) -> None:
    limits = groups(tmp_path, "0::/\n", {"cpu.max": "150000 100000\n"})
    assert usable_cores(*limits) == min(2, ALL)


def test_without_control_groups_it_is_the_affinity(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "none", tmp_path / "none") == ALL
