import json
import os
from pathlib import Path
from typing import Any

import pytest

from rlhf.common.errors import RlhfError
from rlhf.common.yaml import write_yaml
from rlhf.report.seed_runs import read_results
from rlhf.report.seeds import build


def evaluated(rate: float, rules: float) -> dict[str, Any]:
    """A headline whose interval reaches 0.05 to both sides, and no figures at equal length."""
    return {
        "compared": "policy with sft",
        "judge": "gold",
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


def write_run(
    folder: Path,
    name: str,
    rate: float = 0.5,
    rules: float = 0.5,
    *,
    iterations: int = 12,
    learnt: int = 12,
    policy: str = "a1",
    judged: str = "a1",
    **changes: Any,
) -> None:
    """A run of the chain, as DVC leaves it.

    iterations: that params.yaml asks for; learnt: that stage ppo was run with
    policy, judged: the contents of the policy that ppo wrote and that evaluate read
    changes: to metrics/evaluate.json
    """
    run = folder / name
    precision, seed = name.split("-")[1], int(name.rpartition("-")[2])
    files = {
        "sft": {"seconds": 60.0},
        "reward": {"seconds": 60.0, "accuracy": 0.875},
        "ppo": {"seconds": 120.0, "kl_last": 0.1, "explained_variance_last": -0.25},
        "gold": {"seconds": 60.0, "accuracy": 0.9},
        "evaluate": evaluated(rate, rules) | changes,
    }
    (run / "metrics").mkdir(parents=True)
    for stage, content in files.items():
        (run / "metrics" / f"{stage}.json").write_text(json.dumps(content))

    def settings(count: int) -> dict[str, Any]:
        return {"seed": seed, "engine": {"precision": precision}, "ppo": {"iterations": count}}

    stages = {
        "ppo": {
            "params": {
                "params.yaml": {"engine": {"precision": precision}, "ppo.iterations": learnt}
            },
            "outs": [{"path": "models/policy", "md5": policy}],
        },
        "evaluate": {"deps": [{"path": "models/policy", "md5": judged}]},
    }
    (run / "params.yaml").write_text(write_yaml(settings(iterations)))
    (run / "dvc.lock").write_text(write_yaml({"stages": stages}))


def table_of(folder: Path) -> tuple[list[list[str]], list[str]]:
    """The rows of the table that was written, and the lines below it."""
    lines = (folder / "laptop-seeds.md").read_text().splitlines()
    rows = [line for line in lines if line.startswith("|")]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows], lines[len(rows) :]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_run(tmp_path, "laptop-fp32-seed-1", 0.54, 0.5)
    write_run(tmp_path, "laptop-fp32-seed-2", 0.60, 0.45)
    write_run(tmp_path, "laptop-fp32-seed-10", 0.66, 0.55)
    write_run(tmp_path, "laptop-bf16-seed-1", 0.62, 0.5)
    # another preset's, a study, and one that is under way
    write_run(tmp_path, "hh-small-fp32-seed-1", 0.9, 0.9)
    (tmp_path / "laptop" / "runs").mkdir(parents=True)
    (tmp_path / "laptop-seeds.md").touch()
    (tmp_path / "laptop-fp32-seed-3" / "metrics").mkdir(parents=True)
    return tmp_path


def test_finished_runs_are_read_in_the_order_of_their_seeds(folder: Path) -> None:
    results, left_out = read_results(folder, "laptop")
    found = [(run.precision, run.seed) for run in results]
    assert found == [("bf16", 1), ("fp32", 1), ("fp32", 2), ("fp32", 10)]
    assert left_out == {"laptop-fp32-seed-3": "metrics/sft.json is missing"}


def test_the_table_by_hand(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build(folder, "laptop")
    assert capsys.readouterr().out == (folder / "laptop-seeds.md").read_text()
    rows, below = table_of(folder)
    assert below == ["", "Left out:", "", "- laptop-fp32-seed-3: metrics/sft.json is missing"]
    assert rows[0][2:6] == [
        "policy over sft by gold",
        "at equal length",
        "by rules",
        "sft over base by gold",
    ]
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


def test_a_cell_says_of_how_many_values_it_is_the_mean(tmp_path: Path) -> None:
    """Two seeds of five have a rate at equal length; the interval ends where rates do."""
    lengths = {1: 0.2, 2: 0.9, 3: None, 4: None, 5: None}
    for seed, rate in lengths.items():
        name = f"laptop-fp32-seed-{seed}"
        write_run(tmp_path, name, win_rate_length_controlled=rate, rules_win_rate=None)
    build(tmp_path, "laptop")
    rows, _ = table_of(tmp_path)
    # 0.55 and 12.706 x 0.35 on both sides
    assert rows[-1][1:5] == [
        "mean of 5",
        "**0.500 [0.500, 0.500]**, 0 of 5 above 0.5",
        "0.550 [0.000, 1.000] of 2",
        "",
    ]


def test_where_the_judge_could_not_tell_the_cells_are_empty(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("win_rate", "win_rate_low", "win_rate_high"))
    for seed in (1, 2):
        write_run(tmp_path, f"laptop-fp32-seed-{seed}", **nothing)
    write_run(tmp_path, "laptop-bf16-seed-1", 0.7)
    write_run(tmp_path, "laptop-bf16-seed-2", **nothing)
    build(tmp_path, "laptop")
    rows, _ = table_of(tmp_path)
    assert [row[2] for row in rows if row[1] == "mean of 2"] == [
        "**0.700 of 1**, 1 of 1 above 0.5",
        "",
    ]


def test_the_heading_says_what_was_compared_and_by_whom(tmp_path: Path) -> None:
    write_run(tmp_path, "laptop-fp32-seed-1", compared="policy with base", judge="rules")
    build(tmp_path, "laptop")
    rows, _ = table_of(tmp_path)
    assert rows[0][2] == "policy over base by rules"
    assert "policy over base" in (tmp_path / "laptop-seeds.svg").read_text()

    write_run(tmp_path, "laptop-fp32-seed-2")
    with pytest.raises(
        RlhfError, match=r"seed-1 has policy with base by rules; .*seed-2 has policy"
    ):
        build(tmp_path, "laptop")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iterations": 3}, "ppo has not run since ppo.iterations was changed"),
        ({"policy": "b2"}, "evaluate has not run since models/policy was made anew"),
    ],
    ids=["ppo did not run", "evaluate did not run"],
)
def test_a_run_that_was_begun_again_is_left_out_and_named(
    folder: Path, changes: dict[str, Any], reason: str
) -> None:
    """All of its files are there, those of two runs."""
    write_run(folder, "laptop-fp32-seed-4", **changes)
    # killed within stage ppo
    (folder / "laptop-fp32-seed-10" / "metrics" / "ppo.json").unlink()
    build(folder, "laptop")
    rows, below = table_of(folder)
    assert [row[1] for row in rows if row[0] == "fp32"] == ["1", "2", "mean of 2"]
    assert f"- laptop-fp32-seed-4: {reason}" in below
    assert "- laptop-fp32-seed-10: metrics/ppo.json is missing" in below


def test_runs_of_other_settings_are_not_pooled(folder: Path) -> None:
    """Those of the run that is asked for count, else of the one that was judged last."""
    write_run(folder, "laptop-fp32-seed-4", 0.9, iterations=3, learnt=3)
    for name, seconds in (("laptop-fp32-seed-1", 2e9), ("laptop-fp32-seed-4", 1e9)):
        os.utime(folder / name / "metrics" / "evaluate.json", (seconds, seconds))
    seeds = [run.seed for run in read_results(folder, "laptop")[0] if run.precision == "fp32"]
    assert seeds == [1, 2, 10]
    results, left_out = read_results(folder, "laptop", "laptop-fp32-seed-4")
    assert [run.seed for run in results] == [4]
    told = "other settings than laptop-fp32-seed-4: ppo.iterations"
    assert left_out["laptop-bf16-seed-1"] == left_out["laptop-fp32-seed-2"] == told


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
