"""Judges: whoever compares two responses to one prompt. A new judge is one file and one line in `JUDGES`."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from rlhf.common.errors import RlhfError, SettingsError
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

Preference = Literal["first", "tie", "second"]
Outcome = Literal["win", "tie", "lose"]


@dataclass(frozen=True)
class Case:
    """One prompt with two responses, as text for readers and as token ids for models.

    kind: helpful, harmless or other: what the prompt asks to be judged by
    messages: the dialogue up to the user's last turn, each {"role", "content"}
    prompt_ids, ids_first, ids_second: the very tokens that were sampled; decoding and tokenising again may change them
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
    """Which response is better; None: the judge gave no answer that can be read, which is no vote.

    Scores only from a judge that gives any (higher is better).
    """

    preferred: Preference | None
    score_first: float | None = None
    score_second: float | None = None


class Judge(Protocol):
    """Compares responses. It must not know which model wrote which, hence it sees neither names nor files."""

    name: str

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """One verdict a case, in the cases' order."""
        ...

    def facts(self) -> Mapping[str, float | int | None]:
        """What is to be told of the judge itself: what it cost, who voted; empty where there is nothing."""
        ...


@dataclass(frozen=True)
class Judgement:
    """A case judged in both orders, told from the view of the response that came first in the case given.

    in_order, swapped: the two orders' outcomes; None where the judge gave none
    outcome: theirs where they agree; a tie where they do not (the order decided, not the responses); None without both
    """

    in_order: Outcome | None
    swapped: Outcome | None
    outcome: Outcome | None
    score_first: float | None
    score_second: float | None


UNJUDGED = Judgement(None, None, None, None, None)
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
        raise RlhfError(
            f"judge {judge.name}: {len(verdicts)} verdicts for {len(cases)} cases; one each is needed"
        )
    return verdicts


def _combine(verdict: Verdict, other: Verdict) -> Judgement:
    in_order = None if verdict.preferred is None else _IN_ORDER[verdict.preferred]
    swapped = None if other.preferred is None else _SWAPPED[other.preferred]
    outcome: Outcome | None = None
    if in_order is not None and swapped is not None:
        outcome = in_order if in_order == swapped else "tie"
    return Judgement(in_order, swapped, outcome, verdict.score_first, verdict.score_second)


def _gold(settings: Settings, workspace: Workspace, _: str) -> Judge:
    from rlhf.evaluation.judges.gold import (
        GoldJudge,
    )  # imported here, as below: judges build on the types above

    return GoldJudge.load(settings, workspace)


def _rules(settings: Settings, workspace: Workspace, _: str) -> Judge:
    from rlhf.evaluation.judges.rules import RuleJudge

    return RuleJudge()


def _api(settings: Settings, workspace: Workspace, endpoint: str) -> Judge:
    from rlhf.evaluation.judges.api import ApiJudge

    return ApiJudge(endpoint, settings.evaluate.endpoints[endpoint], workspace.kept_answers)


def _people(settings: Settings, workspace: Workspace, path: str) -> Judge:
    from rlhf.evaluation.judges.people import PeopleJudge

    return PeopleJudge(Path(os.path.expandvars(path)))


JUDGES: Mapping[str, Callable[[Settings, Workspace, str], Judge]] = {
    "gold": _gold,
    "rules": _rules,
    "api": _api,  # api:ENDPOINT, one of evaluate.endpoints
    "people": _people,  # people:FILE, votes that `rlhf annotate --export` wrote
}


def make_judge(address: str, settings: Settings, workspace: Workspace) -> Judge:
    """Get a judge ready by its address in `evaluate.judges`; raises SettingsError with the names there are."""
    name, _, detail = address.partition(":")
    if name not in JUDGES:
        raise SettingsError(f"no judge {name!r}; there are: {', '.join(sorted(JUDGES))}")
    return JUDGES[name](settings, workspace, detail)
