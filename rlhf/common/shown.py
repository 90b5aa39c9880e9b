"""How a figure is written where people read it: on the terminal, in Prefect and in MLflow."""

from typing import Any


def format_metric(value: Any) -> str:
    """A metric as a person reads it."""
    # a bool is an int, too
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    return str(value)


def at_iteration(number: int) -> str:
    """Where the training of a policy stands; a negative number is the critic's warm-up."""
    if number >= 0:
        return f"at iteration {number}"
    count = "1 iteration" if number == -1 else f"{-number} iterations"
    return f"in the critic's warm-up, {count} before the policy learns"
