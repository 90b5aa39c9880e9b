"""People as judge: the votes that `rlhf annotate --export` wrote, one JSON object a line."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf.common.address import Address
from rlhf.common.errors import DataError
from rlhf.common.files import text_of
from rlhf.evaluation.agreement import fleiss_kappa
from rlhf.evaluation.types import Case, Facts, Preference, Verdict
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

_SWAPPED: Mapping[Preference, Preference] = {"first": "second", "second": "first", "tie": "tie"}


class Vote(BaseModel):
    """One annotator's answer on one pair.

    pair: `pair_key` of dialogue and texts; first: `text_key` of the response that "first" means
    preferred, shown_left: by these texts, whichever side they were shown on
    at: ISO 8601, UTC
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    pair: str
    first: str
    annotator: str
    preferred: Literal["first", "second", "tie"]
    shown_left: Literal["first", "second"]
    seconds: float
    at: str

    def preference_from(self, first: str) -> Preference:
        """What it prefers, where "first" is the response with the `text_key` `first`."""
        return self.preferred if self.first == first else _SWAPPED[self.preferred]


def text_key(text: str) -> str:
    """Stands for a response."""
    return sha256(text.encode()).hexdigest()[:16]


def pair_key(messages: Sequence[Mapping[str, str]], first: str, second: str) -> str:
    """Stands for a dialogue and two responses, whatever their order."""
    turns = [[message["role"], message["content"]] for message in messages]
    dialogue = json.dumps(turns, ensure_ascii=False)
    # sorted: people saw the sides at random
    responses = sorted([text_key(first), text_key(second)])
    return sha256("\0".join([dialogue, *responses]).encode()).hexdigest()[:24]


def read_votes(path: Path) -> list[Vote]:
    """Read exported votes; raises DataError that names file and line."""
    if not path.is_file():
        raise DataError(path, "no such file; `rlhf annotate --export` writes it")
    votes = []
    for number, line in enumerate(text_of(path).splitlines(), start=1):
        try:
            votes.append(Vote.model_validate_json(line))
        except ValidationError as error:
            raise DataError(path, f"not a vote: {error.errors()[0]['msg']}", number) from None
    return votes


def majority(votes: Sequence[Preference]) -> Preference | None:
    """What more annotators said than anything else; a tie where two lead; None without votes."""
    if not votes:
        return None
    ranked = Counter(votes).most_common(2)
    leading, count = ranked[0]
    two_lead = len(ranked) > 1 and ranked[1][1] == count
    return "tie" if two_lead else leading


class PeopleJudge:
    """The majority of the annotators; a pair that nobody voted on gets no verdict."""

    name = "people"

    def __init__(self, path: Path) -> None:
        self._votes: dict[str, list[Vote]] = {}
        for vote in read_votes(path):
            self._votes.setdefault(vote.pair, []).append(vote)

    @classmethod
    def load(cls, settings: Settings, workspace: Workspace, detail: str) -> Self:
        """The judge `people:FILE`; raises DataError that names the file, and the line at fault."""
        return cls(Address(cls.name, detail).path)

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Look every case up; people saw the sides at random, so that both orders say the same."""
        return [Verdict(self._preferred(case)) for case in cases]

    def facts(self) -> Facts:
        """How many voted how often, and Fleiss' kappa over the pairs with several votes."""
        preferences = []
        annotators = set()
        for votes in self._votes.values():
            # of one pair all from the same side, or they could not be compared
            first = votes[0].first
            preferences.append([vote.preference_from(first) for vote in votes])
            annotators |= {vote.annotator for vote in votes}
        return {
            "votes": sum(map(len, preferences)),
            "annotators": len(annotators),
            "kappa": fleiss_kappa(preferences),
        }

    def _preferred(self, case: Case) -> Preference | None:
        # nobody is asked about equal responses
        if case.response_first == case.response_second:
            return "tie"
        pair = pair_key(case.messages, case.response_first, case.response_second)
        votes = self._votes.get(pair, [])
        first = text_key(case.response_first)
        return majority([vote.preference_from(first) for vote in votes])
