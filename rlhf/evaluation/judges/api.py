"""A model behind an OpenAI-compatible endpoint as judge: the paper's GPT-4.

A question is a rubric and one fenced comparison; the answer must hold one JSON object. What cannot
be read is asked for again a few times, then counted as no vote.
"""

import logging
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Self

from rlhf.evaluation.endpoints import AnswerForm, EndpointClient, Messages, find_endpoint
from rlhf.evaluation.judges.reply import parse_reply
from rlhf.evaluation.judges.rubric import ANSWER_AGAIN, question
from rlhf.evaluation.types import Case, Facts, Verdict
from rlhf.settings.endpoints import Endpoint
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

log = logging.getLogger("rlhf")


class ApiJudge:
    """Asks an endpoint about every case; without a readable answer a verdict has no preference."""

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        cache: Path,
        stage: str = "evaluate",
        show_progress: bool = True,
    ) -> None:
        """stage: the one that asks, in whose section the endpoint stands."""
        self.name = name
        self._stage = stage
        self._client = EndpointClient(name, endpoint, cache, stage, show_progress)

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

        questions = [question(cases[index], endpoint.worked_examples) for index in asked]
        answers = self._client.ask_all(
            f"{self._stage}: judge {self.name}", questions, AnswerForm(_is_readable, ANSWER_AGAIN)
        )
        unread = 0
        for index, messages, answer in zip(asked, questions, answers, strict=True):
            verdicts[index] = Verdict(parse_reply(answer.text, _shown(messages)))
            unread += verdicts[index].preferred is None
        if unread:
            log.warning("judge %s: %d of %d answers hold no verdict", self.name, unread, len(asked))
        return verdicts

    def facts(self) -> Facts:
        """What it cost."""
        return self._client.facts()


def _is_readable(messages: Messages, text: str) -> bool:
    return parse_reply(text, _shown(messages)) is not None


def _shown(messages: Messages) -> str:
    """The task and the texts to be judged; the examples between them are there to be followed."""
    return f"{messages[0]['content']}\n{messages[-1]['content']}"


def _drawn(cases: Sequence[Case], limit: int | None) -> list[int]:
    """Indices of `limit` cases, or of all."""
    # drawn by id: both orders, and later runs, ask about the same ones
    ids = [sha256(case.id.encode()).digest() for case in cases]
    return sorted(range(len(cases)), key=ids.__getitem__)[:limit]
