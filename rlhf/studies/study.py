"""What a study is."""

from dataclasses import dataclass

from rlhf.studies.claims import Claim


@dataclass(frozen=True)
class Study:
    """One figure of the paper (or two of one experiment), or what goes beyond it.

    in_paper: whether `python -m flows.study all` runs it
    preset: the settings that it is meant for
    """

    title: str
    arms: tuple[str, ...]
    claims: tuple[Claim, ...]
    in_paper: bool = True
    preset: str = "study"
