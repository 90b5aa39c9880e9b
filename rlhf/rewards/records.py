"""A response as rewards that read text see it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from rlhf.rollout.prompts import Messages
from rlhf.rollout.records import Rollout

# as long a beginning as a message needs to tell prompts apart
_SHOWN = 80


@dataclass(frozen=True)
class ResponseRecord:
    """A response, its prompt, and what is known of both.

    prompt: the dialogue so far, for readers ("user: ..."); messages: the same, `role` and `content`
    response: its text, without special tokens; length: in tokens, the end token counted
    reference: the right answer, None where the table of prompts has none
    kind: of the prompt, such as helpful
    finished: whether the response ended by itself
    """

    prompt: str
    messages: Messages
    response: str
    reference: str | None
    kind: str
    finished: bool
    length: int

    def as_dict(self) -> dict[str, Any]:
        """Fit for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        """Which one it is, for messages of faults."""
        return f"the response to {shortened(self.prompt)!r}"


def shortened(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}..."


def response_records(
    rollout: Rollout, tokenizer: PreTrainedTokenizerBase
) -> Sequence[ResponseRecord]:
    """A record for each response, in the order of the rollout."""
    prompts = rollout.prompts
    columns = (
        prompts.texts,
        prompts.messages,
        prompts.references,
        prompts.kinds,
        rollout.responses,
        rollout.finished.tolist(),
    )
    return [
        ResponseRecord(
            prompt=text,
            messages=messages,
            response=str(tokenizer.decode(response, skip_special_tokens=True)),
            reference=reference,
            kind=kind,
            finished=finished,
            length=len(response),
        )
        for text, messages, reference, kind, response, finished in zip(*columns, strict=True)
    ]
