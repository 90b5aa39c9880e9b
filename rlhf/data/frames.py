"""What a chat template writes around the turns of a dialogue, and what it does to the turns themselves.

A frame is what it makes of a dialogue of the same roles whose turns are stand-ins: one character each
that has no case and is no blank, so that a template that trims, lower-cases or cuts turns keeps it. Put
back into the frame, the turns are what a template writes that leaves them as they are.
"""

from collections.abc import Sequence
from dataclasses import replace

from rlhf.core.tokenizers import without_thoughts
from rlhf.data.clean import around
from rlhf.data.records import Messages

# of the private use area: what a row says is never looked for in a frame
_FIRST = 0xF0000
_END_OF_THOUGHTS = "</think>"

# The texts before and after, around the first place where they differ.
Rewriting = tuple[str, str]


def stand_ins(messages: Messages) -> Messages:
    """The same roles, each turn one character of its own."""
    return tuple(
        replace(message, content=chr(_FIRST + place)) for place, message in enumerate(messages)
    )


def filled(frame: str, texts: Sequence[str]) -> str:
    """A frame with texts in the place of their stand-ins."""
    return frame.translate({_FIRST + place: text for place, text in enumerate(texts)})


def rewriting_of_answer(
    written: str, frame: str, texts: Sequence[str], end: str
) -> Rewriting | None:
    """What a template made of the last text, where it is not as it was; end: what ends a turn.

    A template may put something before an answer that has no thoughts, and nothing before others.
    """
    expected = filled(frame, texts)
    return None if written in (expected, texts[-1] + end) else around(expected, written)


def rewriting_of_prompt(
    parts: Sequence[str], frame: Sequence[str], messages: Messages, end: str
) -> tuple[bool, Rewriting | None]:
    """Whether thoughts were left out of an earlier answer, and what else was written otherwise first.

    parts: of the rendered prompt, in turn what stands before an answer and the answer; frame: its parts
    """
    texts = [message.content for message in messages]
    answers = [message.content for message in messages if message.role == "assistant"]
    are_thoughts_cut, first = False, None
    for place, (part, framed) in enumerate(zip(parts, frame, strict=True)):
        if place % 2 == 0:
            found = None if part == (expected := filled(framed, texts)) else around(expected, part)
        else:
            answer = answers[place // 2]
            if _leaves_thoughts_out(answer, part):
                are_thoughts_cut = True
                continue
            found = rewriting_of_answer(part, filled(framed, texts), [answer], end)
        first = first or found
    return are_thoughts_cut, first


def _leaves_thoughts_out(answer: str, written: str) -> bool:
    thoughts, mark, _ = answer.rpartition(_END_OF_THOUGHTS)
    is_cut = bool(mark) and thoughts.removeprefix("<think>").strip() not in written
    return is_cut and without_thoughts(answer) in written
