"""People as judge: the votes that `rlhf annotate --export` wrote, one JSON object a line."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rlhf.common.errors import DataError
from rlhf.common.files import text_of
from rlhf.evaluation.agreement import fleiss_kappa
from rlhf.evaluation.types import Case, Preference, Verdict

_OTHER: Mapping[Preference, Preference] = {"first": "second", "second": "first", "tie": "tie"}


class Vote(BaseModel):
    """One annotator's word on one pair: `first` and `second` are the texts, whichever side they were shown on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pair: str  # pair_key of dialogue and texts
    first: str  # text_key of the response that "first" means
    annotator: str
    preferred: Literal["first", "second", "tie"]
    shown_left: Literal["first", "second"]
    seconds: float
    at: str  # ISO 8601, UTC


def text_key(text: str) -> str:
    """Stands for a response."""
    return sha256(text.encode()).hexdigest()[:16]


def pair_key(messages: Sequence[Mapping[str, str]], first: str, second: str) -> str:
    """Stands for a dialogue and two responses, whatever their order."""
    dialogue = json.dumps(
        [[message["role"], message["content"]] for message in messages], ensure_ascii=False
    )
    return sha256(
        "\0".join([dialogue, *sorted([text_key(first), text_key(second)])]).encode()
    ).hexdigest()[:24]


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
    return "tie" if len(ranked) > 1 and ranked[0][1] == ranked[1][1] else ranked[0][0]


class PeopleJudge:
    """The majority of the annotators; a pair that nobody voted on gets no verdict."""

    name = "people"

    def __init__(self, path: Path) -> None:
        self._votes: dict[str, list[Vote]] = {}
        for vote in read_votes(path):
            self._votes.setdefault(vote.pair, []).append(vote)

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Look every case up; people saw the sides at random, so that both orders say the same.

        Equal responses are a tie: nobody was asked about them.
        """
        return [
            Verdict(
                "tie"
                if case.response_first == case.response_second
                else majority(self._preferences(case))
            )
            for case in cases
        ]

    def facts(self) -> dict[str, float | int | None]:
        """How many voted how often, and Fleiss' kappa over the pairs with several votes."""
        votes = [vote for pair in self._votes.values() for vote in pair]
        alike = [
            [
                vote.preferred if vote.first == pair[0].first else _OTHER[vote.preferred]
                for vote in pair
            ]
            for pair in self._votes.values()
        ]
        return {
            "votes": len(votes),
            "annotators": len({vote.annotator for vote in votes}),
            "kappa": fleiss_kappa(alike),
        }

    def _preferences(self, case: Case) -> list[Preference]:
        first = text_key(case.response_first)
        votes = self._votes.get(
            pair_key(case.messages, case.response_first, case.response_second), []
        )
        return [vote.preferred if vote.first == first else _OTHER[vote.preferred] for vote in votes]
