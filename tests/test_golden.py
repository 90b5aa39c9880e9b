"""A refactor moves no number: the tiny models against what was logged before."""

from tests.golden import differences, is_close, is_equal, run_apart

RECORDED = [{"step": 0, "kl": 0.5}, {"step": 1, "kl": 0.25}]


def test_no_number_moves() -> None:
    done = run_apart()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 moved" in done.stdout


def test_what_counts_as_moved() -> None:
    first, second = RECORDED
    assert differences("run", RECORDED, RECORDED, is_equal) == []
    # a new metric is none of the recorded numbers
    assert differences("run", RECORDED, [first | {"share": 1.0}, second], is_equal) == []
    moved = [first, {"step": 1, "kl": 0.2501}]
    assert differences("run", RECORDED, moved, is_equal) == ["run, step 1: kl is 0.2501, was 0.25"]
    assert differences("run", RECORDED, moved, is_close) == []
    # but one that is gone is
    gone = [first, {"step": 1}]
    for same in (is_equal, is_close):
        assert differences("run", RECORDED, gone, same) == ["run, step 1: kl is None, was 0.25"]
    assert differences("run", RECORDED, [first], is_equal) == ["run: other steps"]
    assert differences("run", RECORDED, [second, first], is_equal) == ["run: other steps"]
