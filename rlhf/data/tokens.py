"""Dialogues to token ids with the chat template, so that prompt + response are the tokens of the whole dialogue.

A rendered dialogue is cut where an answer begins and where its end-of-turn token ends, and the pieces are tokenised one
by one. Templates put special tokens or line ends there, so no token reaches over a cut; `check_boundaries` makes sure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from rlhf.common.errors import ModelError
from rlhf.data.records import Message, Messages, as_list

MARGIN = 8  # tokens by which the beginning of a dialogue may change when what stood before it goes


@dataclass(frozen=True)
class Encoded:
    """Tokens; `learned` is True on those of the assistant's answers, their end-of-turn token included.

    messages: what the tokens say; of a prompt too long for the window, the oldest turns are gone
    """

    messages: Messages
    ids: list[int]
    learned: list[bool]


@dataclass(frozen=True)
class Response:
    """Tokens of one answer, ending with the end-of-turn token unless `cut`."""

    ids: list[int]
    cut: bool


class ChatEncoder:
    """Batch-wise tokenisation within the window of the settings (lengths in tokens)."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_prompt: int, max_response: int
    ) -> None:
        self.tokenizer, self.max_prompt, self.max_response = tokenizer, max_prompt, max_response
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if (
            not isinstance(tokenizer.eos_token, str)
            or not tokenizer.chat_template
            or backend is None
        ):
            raise ModelError(
                "the tokenizer needs an eos token, a chat template and a tokenizer.json"
            )
        self._end = tokenizer.eos_token
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        # apply_chat_template and __call__ do the same at several times the cost; check_boundaries compares with them.
        self._template = _compile_jinja_template(tokenizer.get_chat_template())

    def prompts(self, dialogues: Sequence[Messages]) -> list[Encoded | None]:
        """Encode messages that end with the user, generation prompt included.

        The oldest exchanges (a user's turn and its answer) are dropped until the rest fits; None where the last user
        turn alone does not. A system message stays.
        """
        found: list[Encoded | None] = [None] * len(dialogues)
        waiting = dict(enumerate(dialogues))
        while waiting:
            for index, encoded in zip(
                list(waiting), self._encode(list(waiting.values())), strict=True
            ):
                if len(encoded.ids) <= self.max_prompt:
                    found[index] = encoded
                    del waiting[index]
                elif (shorter := self._shortened(encoded)) is not None:
                    waiting[index] = shorter
                else:
                    del waiting[index]
        return found

    def responses(self, prompts: Sequence[Messages], answers: Sequence[str]) -> list[Response]:
        """Encode one answer to each prompt, cut off at max_response tokens."""
        before = self._render(prompts, prompt=True)
        dialogues = [
            (*messages, Message("assistant", text))
            for messages, text in zip(prompts, answers, strict=True)
        ]
        texts = [
            self._answer(whole, part)
            for whole, part in zip(self._render(dialogues, prompt=False), before, strict=True)
        ]
        limit = self.max_response
        return [Response(ids[:limit], cut=len(ids) > limit) for ids in self._tokenise(texts)]

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode plain text, without any special tokens."""
        return self._tokenise(texts)

    def check_boundaries(self, prompts: Sequence[Messages], answers: Sequence[str]) -> None:
        """Compare pieces with what transformers makes of whole dialogues; raises ModelError if a token straddles a cut."""
        encoded, responses = self._encode(prompts), self.responses(prompts, answers)
        for prompt, answer, before, response in zip(
            prompts, answers, encoded, responses, strict=True
        ):
            chat = as_list((*prompt, Message("assistant", answer)))
            text = str(self.tokenizer.apply_chat_template(chat, tokenize=False))
            whole = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            pieces = [*before.ids, *response.ids]
            if whole[: len(pieces)] != pieces:
                raise ModelError(
                    "the chat template does not tokenise piece by piece: prompt and answer together give other tokens than "
                    f"apart, as in {text[-80:]!r}; model.chat_template: chatml does"
                )

    def _shortened(self, encoded: Encoded) -> Messages | None:
        """Drop the oldest exchange, and the next ones as long as the rest surely does not fit; None if none is left."""
        excess = len(encoded.ids) - self.max_prompt
        shorter: Messages | None = encoded.messages
        for end in answer_ends(encoded.learned) or [0]:
            shorter = without_oldest_exchange(shorter) if shorter is not None else None
            if end >= excess - MARGIN:
                break
        return shorter

    def _encode(self, dialogues: Sequence[Messages]) -> list[Encoded]:
        """Encode prompts of any length."""
        pieces = self._pieces(dialogues)
        tokens = iter(self._tokenise([text for row in pieces for text, _ in row]))
        result = []
        for messages, row in zip(dialogues, pieces, strict=True):
            ids: list[int] = []
            learned: list[bool] = []
            for _, by_assistant in row:
                part = next(tokens)
                ids += part
                learned += [by_assistant] * len(part)
            result.append(Encoded(messages, ids, learned))
        return result

    def _pieces(self, dialogues: Sequence[Messages]) -> list[list[tuple[str, bool]]]:
        """Cut each rendered prompt into (text, is an answer)."""
        answers = [
            [i for i, message in enumerate(messages) if message.role == "assistant"]
            for messages in dialogues
        ]
        parts = [
            messages[:i]
            for messages, places in zip(dialogues, answers, strict=True)
            for i in places
        ]
        wholes = [
            messages[: i + 1]
            for messages, places in zip(dialogues, answers, strict=True)
            for i in places
        ]
        cuts = iter(
            zip(self._render(parts, prompt=True), self._render(wholes, prompt=False), strict=True)
        )
        rows = []
        for text, places in zip(self._render(dialogues, prompt=True), answers, strict=True):
            row, done = [], 0
            for before, whole in islice(cuts, len(places)):
                answer = self._answer(whole, before)
                if not text.startswith(before + answer):
                    raise ModelError(
                        "the chat template writes earlier turns differently once later ones follow"
                    )
                row += [(text[done : len(before)], False), (answer, True)]
                done = len(before) + len(answer)
            rows.append([*row, (text[done:], False)])
        return rows

    def _answer(self, whole: str, before: str) -> str:
        """Give the answer at the end of a rendered dialogue, up to and with its end-of-turn token."""
        end = whole.rfind(self._end)
        if not whole.startswith(before) or end < len(before):
            raise ModelError(
                f"the chat template does not put answers after its generation prompt and {self._end!r} behind them"
            )
        return whole[len(before) : end + len(self._end)]

    def _render(self, dialogues: Sequence[Messages], *, prompt: bool) -> list[str]:
        names = self.tokenizer.special_tokens_map
        return [
            self._template.render(messages=as_list(messages), add_generation_prompt=prompt, **names)
            for messages in dialogues
        ]

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        return [
            encoding.ids
            for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        ]


def answer_ends(learned: Sequence[bool]) -> list[int]:
    """Give the positions behind each run of True."""
    return [
        i + 1
        for i, here in enumerate(learned)
        if here and not (i + 1 < len(learned) and learned[i + 1])
    ]


def without_oldest_exchange(messages: Messages) -> Messages | None:
    """Drop the first user turn and its answer; None if only the last user turn is left."""
    start = 1 if messages[0].role == "system" else 0
    if len(messages) - start < 3:
        return None
    return messages[:start] + messages[start + 2 :]
