"""A model behind an OpenAI-compatible endpoint as judge: the paper's GPT-4.

A question is a rubric and one fenced comparison; the answer must be one JSON object. What cannot be
read is asked for again a few times, then counted as no vote.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from rlhf.evaluation.endpoints import AnswerForm, EndpointClient, find_endpoint
from rlhf.evaluation.judges.rubric import ANSWER_AGAIN, question
from rlhf.evaluation.types import Case, Facts, Preference, Verdict
from rlhf.settings.evaluation import Endpoint
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

_PREFERRED: Mapping[str, Preference] = {"A": "first", "B": "second", "tie": "tie"}
_FENCES = ("```", "```json")


class JudgeReply(BaseModel):
    """What the judge must answer, and nothing beside it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str
    verdict: Literal["A", "B", "tie"]


class ApiJudge:
    """Asks an endpoint about every case; without a readable answer a verdict has no preference."""

    def __init__(self, name: str, endpoint: Endpoint, cache: Path) -> None:
        self.name = name
        self._client = EndpointClient(name, endpoint, cache)

    @classmethod
    def load(cls, settings: Settings, workspace: Workspace, detail: str) -> Self:
        """The judge `api:NAME`.

        Raises SettingsError for an unknown endpoint, JudgeError without its key.
        """
        return cls(detail, find_endpoint(detail, settings), workspace.answer_cache)

    def judge(self, cases: Sequence[Case]) -> list[Verdict]:
        """Ask for every case once, or for `limit` of them."""
        endpoint = self._client.endpoint
        verdicts = [Verdict(None)] * len(cases)
        asked = []
        for index in _drawn(cases, endpoint.limit):
            # equal responses are a tie without a question
            verdicts[index] = Verdict("tie")
            if cases[index].response_first != cases[index].response_second:
                asked.append(index)

        answers = self._client.ask_all(
            f"evaluate: judge {self.name}",
            [question(cases[index], endpoint.worked_examples) for index in asked],
            AnswerForm(_is_readable, ANSWER_AGAIN),
        )
        for index, answer in zip(asked, answers, strict=True):
            verdicts[index] = Verdict(parse_reply(answer.text))
        return verdicts

    def facts(self) -> Facts:
        """What it cost."""
        return self._client.facts()


def parse_reply(text: str) -> Preference | None:
    """Read a verdict.

    None unless the whole text is the JSON object asked for; a code fence around it is allowed.
    """
    body = text.strip()
    first, _, rest = body.partition("\n")
    if first.strip() in _FENCES and rest.endswith("```"):
        body = rest[: -len("```")]

    # strict: text that was judged may hold verdicts too, and none of them must count
    try:
        reply = JudgeReply.model_validate(json.loads(body, object_pairs_hook=_without_duplicates))
    # the errors of pydantic and json are ValueErrors
    except (ValueError, RecursionError):
        return None
    return _PREFERRED[reply.verdict]


def _is_readable(text: str) -> bool:
    return parse_reply(text) is not None


def _drawn(cases: Sequence[Case], limit: int | None) -> list[int]:
    """Indices of `limit` cases, or of all."""
    # drawn by id: both orders, and later runs, ask about the same ones
    ids = [sha256(case.id.encode()).digest() for case in cases]
    return sorted(range(len(cases)), key=ids.__getitem__)[:limit]


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # JSON allows it; which of two verdicts would count is then a matter of the parser
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a key twice")
    return content
