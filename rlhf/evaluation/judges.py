"""Judges: whoever compares two responses to one prompt. A new judge is one file and one line in `JUDGES`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from rlhf.common.errors import RlhfError, SettingsError
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

Preference = Literal["first", "tie", "second"]
Outcome = Literal["win", "tie", "lose"]


@dataclass(frozen=True)
class Case:
    """One prompt with two responses, as text for readers and as token ids for models.

    messages: the dialogue up to the user's last turn, each {"role", "content"}
    prompt_ids, ids_first, ids_second: the very tokens that were sampled; decoding and tokenising again may change them
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    response_first: str
    response_second: str
    prompt_ids: tuple[int, ...]
    ids_first: tuple[int, ...]
    ids_second: tuple[int, ...]

    def swapped(self) -> "Case":
        """The same case with the responses in the other order."""
        return Case(
            id=self.id,
            messages=self.messages,
            response_first=self.response_second,
            response_second=self.response_first,
            prompt_ids=self.prompt_ids,
            ids_first=self.ids_second,
            ids_second=self.ids_first,
        )


@dataclass(frozen=True)
class Verdict:
    """Which response is better; scores only from a judge that gives any (higher is better)."""

    preferred: Preference
    score_first: float | None = None
    score_second: float | None = None


class Judge(Protocol):
    """Compares responses. It must not know which model wrote which, hence it sees neither names nor files."""

    name: str

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict a case, in the cases' order."""
        ...


@dataclass(frozen=True)
class Judgement:
    """A case judged in both orders, told from the view of the response that came first in the case given.

    in_order, swapped: the two orders' outcomes
    outcome: theirs where they agree; a tie where they do not (the order decided, not the responses)
    """

    in_order: Outcome
    swapped: Outcome
    outcome: Outcome
    score_first: float | None
    score_second: float | None


_IN_ORDER: dict[Preference, Outcome] = {"first": "win", "tie": "tie", "second": "lose"}
_SWAPPED: dict[Preference, Outcome] = {"first": "lose", "tie": "tie", "second": "win"}


def judge_both_orders(judge: Judge, cases: Sequence[Case]) -> list[Judgement]:
    """Ask for every case in both orders; raises RlhfError when a judge does not answer every case."""
    verdicts = _ask(judge, cases)
    again = _ask(judge, [case.swapped() for case in cases])
    return [_combine(verdict, other) for verdict, other in zip(verdicts, again, strict=True)]


def _ask(judge: Judge, cases: Sequence[Case]) -> list[Verdict]:
    verdicts = judge.judge(cases)
    if len(verdicts) != len(cases):
        raise RlhfError(f"judge {judge.name}: {len(verdicts)} verdicts for {len(cases)} cases; one each is needed")
    return verdicts


def _combine(verdict: Verdict, other: Verdict) -> Judgement:
    in_order, swapped = _IN_ORDER[verdict.preferred], _SWAPPED[other.preferred]
    return Judgement(
        in_order=in_order,
        swapped=swapped,
        outcome=in_order if in_order == swapped else "tie",
        score_first=verdict.score_first,
        score_second=verdict.score_second,
    )


def _gold(settings: Settings, workspace: Workspace) -> Judge:
    from rlhf.evaluation.gold import GoldJudge  # imported here: gold builds on the types above

    return GoldJudge.load(settings, workspace)


JUDGES: dict[str, Callable[[Settings, Workspace], Judge]] = {"gold": _gold}


def make_judge(name: str, settings: Settings, workspace: Workspace) -> Judge:
    """Get a judge ready by name; raises SettingsError with the names there are."""
    if name not in JUDGES:
        raise SettingsError(f"no judge {name!r}; there are: {', '.join(sorted(JUDGES))}")
    return JUDGES[name](settings, workspace)
