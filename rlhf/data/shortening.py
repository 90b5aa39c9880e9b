"""Which turns of a dialogue go where its prompt is longer than the window."""

from collections.abc import Sequence

from rlhf.data.records import Messages

# Tokens by which the beginning of a dialogue may change when what stood before it goes.
MARGIN = 8


def shortened_by(excess: int, messages: Messages, answer_mask: Sequence[bool]) -> Messages | None:
    """Drop the oldest exchange, and more while the rest surely does not fit.

    excess: tokens of the prompt beyond the window; answer_mask: True on the tokens of its answers

    None if no exchange is left to drop.
    """
    shorter: Messages | None = messages
    # The ends of answers show how much each exchange takes, so that a long dialogue need not be
    # encoded again for each exchange that goes.
    for end in answer_ends(answer_mask) or [0]:
        shorter = without_oldest_exchange(shorter) if shorter is not None else None
        if end >= excess - MARGIN:
            break
    return shorter


def answer_ends(answer_mask: Sequence[bool]) -> list[int]:
    """The positions behind each run of True."""
    followed_by_answer = [*answer_mask[1:], False]
    return [
        end
        for end, (inside, continues) in enumerate(
            zip(answer_mask, followed_by_answer, strict=True), start=1
        )
        if inside and not continues
    ]


def without_oldest_exchange(messages: Messages) -> Messages | None:
    """Drop the first user turn and its answer; None if only the last user turn is left."""
    start = 1 if messages[0].role == "system" else 0
    if len(messages) - start < 3:
        return None
    return messages[:start] + messages[start + 2 :]
