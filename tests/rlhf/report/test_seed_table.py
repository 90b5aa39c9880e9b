import json
from pathlib import Path

import pytest

from rlhf.common.errors import RlhfError
from rlhf.report.seeds import build, read_results


def evaluated(rate: float, rules: float) -> dict[str, float | None]:
    """A headline whose interval reaches 0.05 to both sides, and no figures at equal length."""
    return {
        "win_rate": rate,
        "win_rate_low": rate - 0.05,
        "win_rate_high": rate + 0.05,
        "win_rate_length_controlled": None,
        "rules_win_rate": rules,
        "rules_win_rate_low": rules - 0.1,
        "rules_win_rate_high": rules + 0.1,
        "sft_vs_base_win_rate": 0.8,
        "seconds": 60.0,
    }


def write_run(folder: Path, name: str, rate: float, rules: float) -> None:
    metrics = folder / name / "metrics"
    metrics.mkdir(parents=True)
    files = {
        "sft": {"seconds": 60.0},
        "reward": {"seconds": 60.0, "accuracy": 0.875},
        "ppo": {"seconds": 120.0, "kl_last": 0.1, "explained_variance_last": -0.25},
        "gold": {"seconds": 60.0, "accuracy": 0.9},
        "evaluate": evaluated(rate, rules),
    }
    for stage, content in files.items():
        (metrics / f"{stage}.json").write_text(json.dumps(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path, "laptop-fp32-seed-1", 0.54, 0.5)
    write_run(tmp_path, "laptop-fp32-seed-2", 0.60, 0.45)
    write_run(tmp_path, "laptop-fp32-seed-10", 0.66, 0.55)
    write_run(tmp_path, "laptop-bf16-seed-1", 0.62, 0.5)
    # another preset's, a study, and one that is under way
    write_run(tmp_path, "hh-small-fp32-seed-1", 0.9, 0.9)
    (tmp_path / "laptop" / "runs").mkdir(parents=True)
    (tmp_path / "laptop-fp32-seed-3" / "metrics").mkdir(parents=True)
    return tmp_path


def test_finished_runs_are_read_in_the_order_of_their_seeds(folder: Path) -> None:
    found = [(run.precision, run.seed) for run in read_results(folder, "laptop")]
    assert found == [("bf16", 1), ("fp32", 1), ("fp32", 2), ("fp32", 10)]


def test_the_table_by_hand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(folder, "laptop")
    table = (folder / "laptop-seeds.md").read_text()
    assert capsys.readouterr().out == table
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    assert rows[4] == [
        "fp32",
        "2",
        "0.600 [0.550, 0.650]",
        "",
        "0.450 [0.350, 0.550]",
        "0.800",
        "0.88, 0.90",
        "0.10",
        "-0.25",
        "6",
    ]
    # one run of bf16 has no mean. Of 0.54, 0.60, 0.66 with deviation 0.06: 4.3027 x 0.06 / sqrt 3 on both sides
    (pooled,) = [row for row in rows if row[1] == "mean of 3"]
    assert pooled[2] == "**0.600 [0.451, 0.749]**, 2 of 3 above 0.5"
    assert pooled[4] == "0.500 [0.376, 0.624]"


def test_the_picture_has_a_line_a_run(folder: Path) -> None:
    build(folder, "laptop")
    picture = (folder / "laptop-seeds.svg").read_bytes()
    assert picture.startswith(b"<?xml")
    build(folder, "laptop")
    assert (folder / "laptop-seeds.svg").read_bytes() == picture


def test_without_a_finished_run_the_command_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        RlhfError, match=r"no finished run of preset laptop; python -m flows\.seeds"
    ):
        build(tmp_path, "laptop")
