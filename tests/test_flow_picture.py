"""The README's picture of the chain says what the table of stages says."""

from pathlib import Path

import pytest

from rlhf.commands.dvc_yaml import code_folders, data_of
from rlhf.core.source import ROOT
from rlhf.stages import STAGES
from tests.flow_picture import ARROWS, flow_svg


def test_the_picture_is_that_of_this_code() -> None:
    drawn = (ROOT / ".github/img/flow.svg").read_text(encoding="utf-8")
    assert drawn == flow_svg(), "python -m tests.pictures draws it anew"


@pytest.mark.parametrize(("start", "end", "path"), ARROWS)
def test_an_arrow_is_a_path_that_one_writes_and_the_other_reads(
    start: str, end: str, path: str
) -> None:
    assert path in STAGES[start].outs
    read = data_of(STAGES[end])
    # an optional model is read through the folder of an algorithm's code
    algorithms = code_folders(STAGES[end])
    folders = [
        entry.replace("${ppo.algorithm}", name)
        for entry in algorithms
        for name in ("rto", "process")
    ]
    assert path in read or str(Path(path).parent) in folders


def test_every_stage_is_reached() -> None:
    ends = {end for _, end, _ in ARROWS}
    assert ends == STAGES.keys() - {"fetch"}
