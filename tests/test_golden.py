"""A refactor moves no number: the tiny models against what was logged before."""

from tests.golden import run_apart


def test_no_number_moves() -> None:
    done = run_apart()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 moved" in done.stdout
