from rlhf.evaluation.histograms import (
    Histograms,
    histogram_counts,
    histogram_edges,
    shared_histograms,
)


def test_histogram_counts_everything_even_a_single_value() -> None:
    values = [0.0, 0.5, 1.0, 1.0]
    assert sum(histogram_counts(values, histogram_edges(values))) == 4
    assert sum(histogram_counts([2.0, 2.0], histogram_edges([2.0, 2.0], bins=3))) == 2


def test_groups_share_their_edges() -> None:
    found = shared_histograms({"b": [0.0, 2.0], "a": [1.0], "none": []})
    assert found.edges[0] == 0.0 and found.edges[-1] == 2.0
    assert {name: sum(counts) for name, counts in found.counts.items()} == {
        "a": 1,
        "b": 2,
        "none": 0,
    }
    assert shared_histograms({"a": []}) == Histograms([], {})
