import pytest

from rlhf.report.formats import duration, nonzero, number, percent, percent_interval, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0.11349, "0.113"),
        (23.314, "23.3"),
        (1204, "1\u202f204"),
        (-2.5, "−2.50"),
        (True, "True"),
        (120.0, "120"),
        (12345.6, "12\u202f346"),
        (2e-5, "2e−05"),
        ("text", "text"),
    ],
)
def test_number(value: object, text: str) -> None:
    assert number(value) == text


def test_nonzero() -> None:
    assert [nonzero(0), nonzero(1204)] == ["–", "1\u202f204"]


def test_signed() -> None:
    assert [signed(1.234), signed(-0.5), signed(None)] == ["+1.23", "−0.50", "–"]


def test_percent() -> None:
    assert [percent(0.5), percent(None), percent(0.555, 0)] == ["50.0\u202f%", "–", "56\u202f%"]


def test_percent_interval() -> None:
    assert percent_interval((0.25, 0.5)) == "25.0\u202f% – 50.0\u202f%"
    assert percent_interval((None, None)) == "–"


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.21, "3.2 s"), (90, "90 s"), (421, "7 min"), (7300, "2 h 02 min")]
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text
