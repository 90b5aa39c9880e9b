"""Dialogues to token ids with the chat template: prompt + response are the tokens of the dialogue.

A rendered dialogue is cut where an answer begins and where its end-of-turn token ends, and the
pieces are tokenised one by one. Templates put special tokens or line ends there, so no token
reaches over a cut; `check_boundaries` makes sure.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from rlhf.common.errors import ModelError
from rlhf.data.records import Message, Messages, Solution, as_list

# Tokens by which the beginning of a dialogue may change when what stood before it goes.
MARGIN = 8


@dataclass(frozen=True)
class EncodedPrompt:
    """Tokens of a prompt, generation prompt included.

    messages: what the tokens stand for; of a prompt too long for the window, the oldest
        turns are gone
    answer_mask: True on the tokens of earlier answers, their end-of-turn token included
    """

    messages: Messages
    ids: list[int]
    answer_mask: list[bool]


@dataclass(frozen=True)
class EncodedResponse:
    """Tokens of one answer, ending with the end-of-turn token unless `truncated`."""

    ids: list[int]
    truncated: bool


@dataclass(frozen=True)
class EncodedSolution:
    """Tokens of an answer in steps; step_ends: positions of each step's last token, as far as it is there."""

    ids: list[int]
    step_ends: list[int]
    truncated: bool


@dataclass(frozen=True)
class _Piece:
    """A part of a rendered dialogue that is tokenised by itself."""

    text: str
    is_answer: bool


class ChatEncoder:
    """Batch-wise tokenisation within the window of the settings.

    max_prompt, max_response: in tokens
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_prompt: int, max_response: int
    ) -> None:
        self.tokenizer, self.max_prompt, self.max_response = tokenizer, max_prompt, max_response
        backend = getattr(tokenizer, "backend_tokenizer", None)
        has_eos = isinstance(tokenizer.eos_token, str)
        if not has_eos or not tokenizer.chat_template or backend is None:
            raise ModelError(
                "the tokenizer needs an eos token, a chat template and a tokenizer.json"
            )
        self._end_of_turn = str(tokenizer.eos_token)
        # the names that templates use: bos_token, eos_token, ...
        self._special_tokens = tokenizer.special_tokens_map
        # the tokenizer of the Rust library, without the wrapper
        self._backend = backend
        # a tokenizer.json may carry limits of its own
        backend.no_truncation()
        backend.no_padding()
        # apply_chat_template and __call__ do the same at several times the cost; check_boundaries
        # compares with them.
        self._template = _compile_jinja_template(tokenizer.get_chat_template())

    def prompts(self, dialogues: Sequence[Messages]) -> list[EncodedPrompt | None]:
        """Encode messages that end with the user, generation prompt included.

        The oldest exchanges (a user's turn and its answer) are dropped until the rest fits; None
        where the last user turn alone does not. A system message stays.
        """
        results: list[EncodedPrompt | None] = [None] * len(dialogues)
        pending = dict(enumerate(dialogues))
        while pending:
            encoded_prompts = self._encode(list(pending.values()))
            shortened: dict[int, Messages] = {}
            for index, encoded in zip(pending, encoded_prompts, strict=True):
                if len(encoded.ids) <= self.max_prompt:
                    results[index] = encoded
                    continue
                shorter = self._shorten(encoded)
                if shorter is not None:
                    shortened[index] = shorter
            pending = shortened
        return results

    def responses(
        self, prompts: Sequence[Messages], answers: Sequence[str]
    ) -> list[EncodedResponse]:
        """Encode one answer to each prompt, cut off at max_response tokens."""
        texts = []
        for messages, answer in zip(prompts, answers, strict=True):
            before = self._render(messages, generation_prompt=True)
            dialogue = (*messages, Message("assistant", answer))
            texts.append(self._answer_text(dialogue, before))

        limit = self.max_response
        return [
            EncodedResponse(ids[:limit], truncated=len(ids) > limit)
            for ids in self._tokenise(texts)
        ]

    def solutions(
        self, prompts: Sequence[Messages], solutions: Sequence[Solution], separator: str
    ) -> list[EncodedSolution]:
        """Encode answers in steps, cut off at max_response tokens.

        Each step is tokenised with the separator behind it, by itself, so that a line end does not
        join the next step's first blanks in one token. Behind the last one stands what ends the
        answer, where it is finished.
        """
        texts_of_rows = [
            self._step_texts(messages, solution, separator)
            for messages, solution in zip(prompts, solutions, strict=True)
        ]
        # all steps in one batch, dealt out again
        tokens = iter(self._tokenise([text for texts in texts_of_rows for text in texts]))

        encoded = []
        for texts in texts_of_rows:
            ids: list[int] = []
            ends: list[int] = []
            for _ in texts:
                ids += next(tokens)
                ends.append(len(ids) - 1)
            limit = self.max_response
            kept = [end for end in ends if end < limit]
            encoded.append(EncodedSolution(ids[:limit], kept, truncated=len(ids) > limit))
        return encoded

    def _step_texts(self, messages: Messages, solution: Solution, separator: str) -> list[str]:
        """The text of each step with what stands behind it."""
        *before_last, last = solution.steps
        behind_last = separator
        if solution.finished:
            whole = separator.join(solution.steps)
            before = self._render(messages, generation_prompt=True)
            answer = self._answer_text((*messages, Message("assistant", whole)), before)
            if not answer.startswith(whole):
                raise ModelError("the chat template does not write answers as they are")
            behind_last = answer[len(whole) :]
        return [*(step + separator for step in before_last), last + behind_last]

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode plain text, without any special tokens."""
        return self._tokenise(texts)

    def check_boundaries(self, prompts: Sequence[Messages], answers: Sequence[str]) -> None:
        """Compare pieces with what transformers makes of whole dialogues.

        Raises ModelError if a token straddles a cut.
        """
        encoded_prompts = self._encode(prompts)
        responses = self.responses(prompts, answers)
        for prompt, answer, encoded, response in zip(
            prompts, answers, encoded_prompts, responses, strict=True
        ):
            chat = as_list((*prompt, Message("assistant", answer)))
            text = str(self.tokenizer.apply_chat_template(chat, tokenize=False))
            expected = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            # a template may write more behind the end of turn, for example a line end
            pieces = [*encoded.ids, *response.ids]
            if expected[: len(pieces)] != pieces:
                raise ModelError(
                    "the chat template does not tokenise piece by piece: prompt and answer "
                    f"together give other tokens than apart, as in {text[-80:]!r}; "
                    "model.chat_template: chatml does"
                )

    def _shorten(self, encoded: EncodedPrompt) -> Messages | None:
        """Drop the oldest exchange, and more while the rest surely does not fit.

        None if no exchange is left to drop.
        """
        excess = len(encoded.ids) - self.max_prompt
        shorter: Messages | None = encoded.messages
        # The ends of answers show how much each exchange takes, so that a long dialogue need not be
        # encoded again for each exchange that goes.
        for end in answer_ends(encoded.answer_mask) or [0]:
            shorter = without_oldest_exchange(shorter) if shorter is not None else None
            if end >= excess - MARGIN:
                break
        return shorter

    def _encode(self, dialogues: Sequence[Messages]) -> list[EncodedPrompt]:
        """Encode prompts of any length."""
        pieces_of_prompts = [self._pieces(messages) for messages in dialogues]
        texts = [piece.text for pieces in pieces_of_prompts for piece in pieces]
        # all pieces in one batch, dealt out again below
        tokens = iter(self._tokenise(texts))

        encoded_prompts = []
        for messages, pieces in zip(dialogues, pieces_of_prompts, strict=True):
            ids: list[int] = []
            answer_mask: list[bool] = []
            for piece in pieces:
                piece_ids = next(tokens)
                ids += piece_ids
                answer_mask += [piece.is_answer] * len(piece_ids)
            encoded_prompts.append(EncodedPrompt(messages, ids, answer_mask))
        return encoded_prompts

    def _pieces(self, messages: Messages) -> list[_Piece]:
        """Cut a rendered prompt before and behind each answer."""
        text = self._render(messages, generation_prompt=True)
        pieces, position = [], 0
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self._render(messages[:index], generation_prompt=True)
            answer = self._answer_text(messages[: index + 1], before)
            if not text.startswith(before + answer):
                raise ModelError(
                    "the chat template writes earlier turns differently once later ones follow"
                )
            pieces.append(_Piece(text[position : len(before)], is_answer=False))
            pieces.append(_Piece(answer, is_answer=True))
            position = len(before) + len(answer)
        return [*pieces, _Piece(text[position:], is_answer=False)]

    def _answer_text(self, dialogue: Messages, before: str) -> str:
        """The answer at the end of a dialogue, up to and with its end-of-turn token.

        before: the rendered messages before the answer, generation prompt included
        """
        text = self._render(dialogue, generation_prompt=False)
        # the last end-of-turn token is that of the answer, the last message
        end = text.rfind(self._end_of_turn)
        if not text.startswith(before) or end < len(before):
            raise ModelError(
                "the chat template does not put answers after its generation prompt "
                f"and {self._end_of_turn!r} behind them"
            )
        return text[len(before) : end + len(self._end_of_turn)]

    def _render(self, messages: Messages, *, generation_prompt: bool) -> str:
        return self._template.render(
            messages=as_list(messages),
            add_generation_prompt=generation_prompt,
            **self._special_tokens,
        )

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]


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
