"""Numbers as the pages show them: the filters of the templates."""

from collections.abc import Callable, Mapping
from typing import Any

NO_VALUE = "–"
# between thousands, and between a number and its sign of percent
_THIN_SPACE = "\u202f"
_MINUS = "−"


def number(value: Any, digits: int = 3) -> str:
    """A number with so many significant digits and spaces between thousands.

    None is a dash; truth values and text are shown as they are.
    """
    if value is None:
        return NO_VALUE
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)

    whole = isinstance(value, int) or 10**digits <= abs(value) < 1e9
    if whole:
        return f"{value:,.0f}".replace(",", _THIN_SPACE)
    # `#` shows trailing zeros: 2.50, not 2.5. Very small numbers are clearer without: 2e-05.
    text = f"{value:.{digits}g}" if abs(value) < 1e-3 else f"{value:#.{digits}g}"
    return text.rstrip(".").replace("-", _MINUS)


def nonzero(value: int) -> str:
    """A count; 0 is a dash."""
    return number(value) if value else NO_VALUE


def signed(value: float | None) -> str:
    """A score with its sign and two decimals; None is a dash."""
    return NO_VALUE if value is None else f"{value:+.2f}".replace("-", _MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as a percentage; None is a dash."""
    return NO_VALUE if value is None else f"{100 * value:.{digits}f}{_THIN_SPACE}%"


def percent_interval(interval: tuple[float | None, float | None]) -> str:
    """(low, high), shares in [0, 1]; one dash where there is no interval."""
    low, high = interval
    return NO_VALUE if low is None else f"{percent(low)} – {percent(high)}"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours and minutes, whichever reads best."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


FILTERS: Mapping[str, Callable[..., str]] = {
    "number": number,
    "nonzero": nonzero,
    "signed": signed,
    "percent": percent,
    "percent_interval": percent_interval,
    "duration": duration,
}
