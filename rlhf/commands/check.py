"""What `rlhf doctor` reports: one record a check."""

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "fault"]


@dataclass(frozen=True)
class Check:
    """One finding: `fault` where the chain cannot run, `note` where it runs with a limit.

    The advice names the limit, or what to do.
    """

    name: str
    state: State
    found: str
    advice: str = ""
