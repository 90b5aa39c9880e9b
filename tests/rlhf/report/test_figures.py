import pytest

from rlhf.report.figures import (
    GroupedHistogram,
    calibration_plot,
    evenly_spaced,
    outlined_histogram,
    ridgeline_plot,
    stacked_histogram,
)


def test_figures_without_numbers_are_empty() -> None:
    assert stacked_histogram("a", "A", GroupedHistogram()).svg is None
    no_counts = GroupedHistogram([0.0, 1.0], {"helpful": [0]})
    assert stacked_histogram("a", "A", no_counts).svg is None
    assert outlined_histogram("b", "B", GroupedHistogram()).svg is None
    empty_bin = {"count": 0, "predicted": None, "observed": None}
    assert calibration_plot("c", "C", [empty_bin]).svg is None
    assert ridgeline_plot("d", "D", [{"step": 0, "edges": [0, 1], "counts": [0]}]).svg is None


def test_groups_without_a_colour_share_one() -> None:
    histogram = GroupedHistogram([0.0, 1.0], {"policy": [2], "chatgpt": [1], "mine": [1]})
    panel = stacked_histogram("a", "A", histogram)
    assert panel.legend == (("policy", "policy"), ("chatgpt", "other"), ("mine", "other"))


@pytest.mark.parametrize(
    ("count", "expected"), [(3, [0, 4, 9]), (2, [0, 9]), (20, list(range(10)))]
)
def test_evenly_spaced_items_include_both_ends(count: int, expected: list[int]) -> None:
    assert evenly_spaced(list(range(10)), count) == expected
