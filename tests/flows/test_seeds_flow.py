"""The whole chain for several seeds, run by its command in a clone."""

import sys

import pytest

from flows.seeds import main
from tests.project_copy import Project

COMMAND = (sys.executable, "-m", "flows.seeds", "tiny", "--seeds", "2", "--precision", "fp32")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--first-seed", "-1"], "--first-seed -1: not below 0"),
        (["--seeds", "0"], "--seeds 0: at least one"),
        (["--set", "seed=3"], "seed: set for each run by --first-seed"),
    ],
)
def test_what_no_run_can_have_is_refused_before_anything_starts(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["tiny", *arguments])
    assert end.value.code == 1
    assert message in capsys.readouterr().err


@pytest.mark.long
def test_the_chain_runs_once_a_seed_and_what_is_done_is_not_run_again(
    copied_chain: Project,
) -> None:
    # the chain around has run the first seed: DVC takes that over
    assert copied_chain.run(*COMMAND).count("Running stage 'ppo'") == 1
    studies = copied_chain.root / "studies"
    table = (studies / "tiny-seeds.md").read_text()
    assert [line.split(" | ")[1] for line in table.splitlines()[2:]] == ["1", "2", "mean of 2"]
    assert (studies / "tiny-seeds.svg").is_file()
    assert "Running stage" not in copied_chain.run(*COMMAND)
    assert (studies / "tiny-seeds.md").read_text() == table
