import numpy as np
import pytest

from rlhf.report.curves import Curve, CurvePlot, plot_curves, read_series, running_mean


def test_running_mean_by_hand() -> None:
    means = running_mean(np.array([1.0, 2.0, 6.0, 3.0]), reach=1)
    assert means.tolist() == [1.5, 3.0, pytest.approx(11 / 3), 4.5]


def test_rows_without_a_number_are_left_out_of_a_series() -> None:
    rows = [{"step": 1, "kl": 0.5}, {"step": 2}, {"step": 3, "kl": None}, {"step": 4, "kl": 2}]
    series = read_series(rows, "kl")
    assert series.steps.tolist() == [1, 4]
    assert series.values.tolist() == [0.5, 2.0]


def test_a_plot_without_any_of_its_keys_is_empty() -> None:
    plot = CurvePlot("a", "A", (Curve("missing", "m"),), note="why", collapse_signal=True)
    panel = plot_curves(plot, [{"step": 1, "other": 2.0}])
    assert panel.svg is None
    assert (panel.title, panel.note, panel.collapse_signal) == ("A", "why", True)


def test_the_legend_names_the_curves_that_are_drawn() -> None:
    plot = CurvePlot("a", "A", (Curve("kl", "KL"), Curve("missing", "m", "sft")))
    assert plot_curves(plot, [{"step": 1, "kl": 2.0}]).legend == (("KL", "policy"),)
    alone = CurvePlot("a", "A", (Curve("kl", "KL"),))
    assert plot_curves(alone, [{"step": 1, "kl": 2.0}]).legend == ()


def test_one_point_is_drawn_as_a_marker() -> None:
    panel = plot_curves(CurvePlot("one", "One", (Curve("kl", "KL"),)), [{"step": 0, "kl": 0.1}])
    assert panel.svg is not None
    assert "<use" in panel.svg
