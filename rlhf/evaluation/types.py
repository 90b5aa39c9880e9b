"""What a judge is given and gives back. Judges import this module; it imports none of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

Preference = Literal["first", "tie", "second"]
Outcome = Literal["win", "tie", "lose"]

# What a judge or an opponent reports of itself: what it cost, who voted.
Facts = Mapping[str, float | int | None]


# -- what a judge is given, and gives back --


@dataclass(frozen=True)
class Case:
    """One prompt with two responses, as text for readers and as token ids for models.

    kind: helpful, harmless or other: what the prompt asks to be judged by
    messages: the dialogue up to the user's last turn, each {"role", "content"}
    prompt_ids, ids_first, ids_second: the very tokens that were sampled; to decode and tokenise
        them again may change them
    """

    id: str
    kind: str
    messages: tuple[Mapping[str, str], ...]
    response_first: str
    response_second: str
    prompt_ids: tuple[int, ...]
    ids_first: tuple[int, ...]
    ids_second: tuple[int, ...]

    def swapped(self) -> "Case":
        """The same case with the responses in the other order."""
        return replace(
            self,
            response_first=self.response_second,
            response_second=self.response_first,
            ids_first=self.ids_second,
            ids_second=self.ids_first,
        )


@dataclass(frozen=True)
class Verdict:
    """Which response is better. None: the judge gave no readable answer, which is no vote.

    Scores only from a judge that gives any (higher is better).
    """

    preferred: Preference | None
    score_first: float | None = None
    score_second: float | None = None


# -- the judge itself --


class Judge(Protocol):
    """Compares responses. It must not know which model wrote which: it sees no names and no files.

    name: as metrics and tables have it; the kind of its address, or the name of its endpoint
    """

    name: str

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict a case, in the cases' order."""
        ...

    def facts(self) -> Facts:
        """What the judge reports of itself; empty where there is nothing."""
        ...


class JudgeClass(Protocol):
    """What a line of `rlhf.registry.JUDGES` names: a class that makes a judge from an address."""

    def load(self, settings: Settings, workspace: Workspace, detail: str) -> Judge:
        """Get the judge ready; `detail` follows the colon in its address, "" without one."""
        ...


# -- what both orders together say --


@dataclass(frozen=True)
class Judgement:
    """A case judged in both orders, seen from the response that came first in the given case.

    in_order, swapped: the outcomes of the two orders; None where the judge gave none
    outcome: the outcome of both where they agree; a tie where they do not, for then the order
        decided and not the responses; None unless both are there
    """

    in_order: Outcome | None
    swapped: Outcome | None
    outcome: Outcome | None
    score_first: float | None
    score_second: float | None


# of a prompt that one of the models has no response to
UNJUDGED = Judgement(None, None, None, None, None)
