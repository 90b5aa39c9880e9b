"""Where the steps of a response end, found in its token ids.

The text that a token stands for is its piece. Decoding the response and cutting its text would lose
the places of tokens, and tokenising the steps again might give other ids than those that were sampled.
"""

from collections.abc import Iterable, Sequence

from transformers import PreTrainedTokenizerBase

from rlhf.common.errors import ModelError


def step_ends(pieces: Sequence[str], separator: str, *, ended: bool) -> list[int]:
    """The positions of the last tokens of steps, rising, each once.

    pieces: the text of each token of a response; ended: whether the last one is the end token

    1. A step ends at the token that holds the last character of a separator.
    2. A response that ended by itself ends its last step with its end token.
    3. A response that was cut is in the middle of its last step, which has no end.
    4. A step holds more than blanks: separators in a row, and an end token behind a separator, end
       nothing. Else empty lines would be steps, and paid for.
    """
    text = "".join(pieces[:-1] if ended else pieces)
    token_of = [token for token, piece in enumerate(pieces) for _ in piece]
    ends: list[int] = []
    start = 0
    while (found := text.find(separator, start)) >= 0:
        behind = found + len(separator)
        if text[start:found].strip():
            ends.append(token_of[behind - 1])
        start = behind
    if ended and text[start:].strip():
        ends.append(len(pieces) - 1)
    # one token may hold a whole step and what stands before it
    return list(dict.fromkeys(ends))


class StepFinder:
    """Finds the ends of steps with the pieces of one tokenizer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, separator: str, other_ends: Iterable[int] = ()
    ) -> None:
        """other_ends: tokens that end a response as the tokenizer's eos does, as in rollouts.

        Raises ModelError where no tokens show the separator. So it is with a character that is
        written in several tokens, none of which is text, and with a tokenizer that throws line ends
        away.
        """
        self._separator = separator
        self._tokenizer = tokenizer
        self._ends = {tokenizer.eos_token_id, *other_ends}
        self._pieces: dict[int, str] = {}
        if not self._can_be_found():
            raise ModelError(
                f"data.step_separator {separator!r}: the tokenizer has no tokens that spell it; "
                'a line end, "\\n", does with most'
            )

    def ends(self, ids: Sequence[int]) -> list[int]:
        """The positions of the last tokens of the steps of a response."""
        ended = len(ids) > 0 and ids[-1] in self._ends
        return step_ends([self._piece(token) for token in ids], self._separator, ended=ended)

    def _can_be_found(self) -> bool:
        """By its own tokens; else, as a part of a token, which takes a look at all of them."""
        ids = self._tokenizer.encode(self._separator, add_special_tokens=False)
        if self._separator in "".join(map(self._piece, ids)):
            return True
        vocabulary = self._tokenizer.get_vocab().values()
        return any(self._separator in self._piece(token) for token in vocabulary)

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            # decode may give a list for several sequences
            text = self._tokenizer.decode([token], clean_up_tokenization_spaces=False)
            self._pieces[token] = str(text)
        return self._pieces[token]
