from pathlib import Path

import pandas as pd
import pytest
from annotators import make_workspace

from rlhf.annotation.pairs import read_pairs
from rlhf.common.errors import DataError


def test_pairs_of_a_workspace_without_equal_answers(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 4)
    assert len(read_pairs(workspace.comparisons, "policy", "sft")) == 4


def test_a_pair_is_read_once_however_many_judges_compared_it(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 4)
    table = pd.read_parquet(workspace.comparisons)
    by_judges = [table.assign(judge=judge) for judge in ("gold", "rules")]
    pd.concat(by_judges).to_parquet(workspace.comparisons)
    assert len(read_pairs(workspace.comparisons, "policy", "sft")) == 4


def test_a_missing_table_or_comparison_is_named(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path, 4)
    with pytest.raises(DataError, match="no comparison of sft with base; there are: policy sft"):
        read_pairs(workspace.comparisons, "sft", "base")
    with pytest.raises(DataError, match="no such file"):
        read_pairs(tmp_path / "none.parquet", "policy", "sft")
