"""Dialogues to token ids with the chat template: prompt + response are the tokens of the dialogue.

A rendered dialogue is cut where an answer begins and where its end-of-turn token ends, and the
pieces are tokenised one by one: an answer is sampled behind the tokens of its prompt, so it is
learnt behind them too. Most templates put special tokens or line ends there, and no token reaches
over a cut; `check_boundaries` tells where one would.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rlhf.common.errors import ModelError
from rlhf.data.chat_template import ChatTemplate, Piece
from rlhf.data.continuing import continuing_backend
from rlhf.data.frames import Rewriting
from rlhf.data.records import Message, Messages, as_list
from rlhf.data.shortening import shortened_by

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EncodedPrompt:
    """Tokens of a prompt, generation prompt included.

    messages: what the tokens stand for; of a prompt too long for the window, the oldest
        turns are gone
    answer_mask: True on the tokens of earlier answers, their end-of-turn token included
    target_mask: the same without answers that are not learnt
    thoughts_cut: the template left the thoughts out of an earlier answer, as Qwen3's does
    rewritten: what it wrote otherwise than a turn says, without its blanks or in small letters
    """

    messages: Messages
    ids: list[int]
    answer_mask: list[bool]
    target_mask: list[bool]
    thoughts_cut: bool = False
    rewritten: Rewriting | None = None


@dataclass(frozen=True)
class EncodedResponse:
    """Tokens of one answer, ending with the end-of-turn token unless `truncated`.

    rewritten: what the template wrote otherwise: without the answer's thoughts, or its blanks
    """

    ids: list[int]
    truncated: bool
    rewritten: Rewriting | None = None


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
        # the tokenizer of the Rust library, without the wrapper
        self._backend = backend
        # a tokenizer.json may carry limits of its own
        backend.no_truncation()
        backend.no_padding()
        self._continuing = continuing_backend(backend)
        self._template = ChatTemplate(tokenizer)

        # tokens that a template writes by itself: within a text they would act as commands
        self.commands = self._commands()

    def _commands(self) -> frozenset[str]:
        """Special tokens, and added ones that the template begins or ends turns with.

        Not each added token: `<think>` is one that answers are written with.
        """
        added = self.tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special}
        try:
            turn = self._template.render((Message("user", "?"),), generation_prompt=True)
        except TemplateError:
            turn = ""
        written = {str(token) for token in added if str(token) in turn}
        return frozenset({*special, *written, *self.tokenizer.all_special_tokens})

    def refusal(self, dialogue: Messages) -> str | None:
        """Why the template refuses these messages; None where it takes them."""
        return self._template.refusal(dialogue)

    def prompts(self, dialogues: Sequence[Messages]) -> list[EncodedPrompt | None]:
        """Encode messages that end with the user, generation prompt included.

        The oldest exchanges (a user's turn and its answer) are dropped until the rest fits; None
        where the last user turn alone does not, and where the template refuses the messages
        (`refusal`). A system message stays.
        """
        results: list[EncodedPrompt | None] = [None] * len(dialogues)
        pending = {
            index: messages
            for index, messages in enumerate(dialogues)
            if self.refusal(messages) is None
        }
        while pending:
            encoded_prompts = self._encode(list(pending.values()))
            shortened: dict[int, Messages] = {}
            for index, encoded in zip(pending, encoded_prompts, strict=True):
                excess = len(encoded.ids) - self.max_prompt
                if excess <= 0:
                    results[index] = encoded
                    continue
                shorter = shortened_by(excess, encoded.messages, encoded.answer_mask)
                if shorter is not None:
                    shortened[index] = shorter
            pending = shortened
        return results

    def responses(
        self, prompts: Sequence[Messages], answers: Sequence[str]
    ) -> list[EncodedResponse]:
        """Encode one answer to each prompt, cut off at max_response tokens."""
        dialogues = [
            (*messages, Message("assistant", answer))
            for messages, answer in zip(prompts, answers, strict=True)
        ]
        pieces = [self._template.answer(dialogue) for dialogue in dialogues]
        rewritings = map(self._template.rewriting_of_answer, dialogues, pieces)

        limit = self.max_response
        return [
            EncodedResponse(ids[:limit], len(ids) > limit, rewriting)
            for ids, rewriting in zip(self._tokenise_pieces(pieces), rewritings, strict=True)
        ]

    def answer_text(self, messages: Messages, answer: str) -> str:
        """An answer as the template writes it behind its prompt, end-of-turn token included."""
        return self._template.answer((*messages, Message("assistant", answer))).text

    def going_on(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts by themselves, each of which goes on from another one."""
        return self._tokenise_pieces(
            [Piece(text, is_answer=True, continues=True) for text in texts]
        )

    def texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode plain text, without any special tokens."""
        return self._tokenise(texts)

    def check_boundaries(self, prompts: Sequence[Messages], answers: Sequence[str]) -> None:
        """Compare pieces with what transformers makes of whole dialogues.

        Raises ModelError if the pieces are another text. A warning where they are the same text in
        other tokens, as where a token reaches over a cut.
        """
        straddling: str | None = None
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
            if expected[: len(pieces)] == pieces:
                continue
            straddling = text[-80:]
            if not self._decode(expected).startswith(self._decode(pieces)):
                raise ModelError(
                    "the chat template does not tokenise piece by piece: prompt and answer "
                    f"together give another text than apart, as in {straddling!r}; "
                    "model.chat_template names another one"
                )
        if straddling is not None:
            log.warning(
                "prompt and answer together give other tokens than one after the other, as in %r; "
                "the answers are learnt as they are sampled, behind the tokens of their prompts",
                straddling,
            )

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))

    def _encode(self, dialogues: Sequence[Messages]) -> list[EncodedPrompt]:
        """Encode prompts of any length."""
        pieces_of_prompts = [self._template.pieces(messages) for messages in dialogues]
        # all pieces in one batch, dealt out again below
        tokens = iter(
            self._tokenise_pieces([piece for pieces in pieces_of_prompts for piece in pieces])
        )

        encoded_prompts = []
        for messages, pieces in zip(dialogues, pieces_of_prompts, strict=True):
            ids: list[int] = []
            answer_mask: list[bool] = []
            target_mask: list[bool] = []
            for piece in pieces:
                piece_ids = next(tokens)
                ids += piece_ids
                answer_mask += [piece.is_answer] * len(piece_ids)
                target_mask += [piece.is_target] * len(piece_ids)
            is_cut, rewriting = self._template.rewriting(messages, pieces)
            encoded_prompts.append(
                EncodedPrompt(messages, ids, answer_mask, target_mask, is_cut, rewriting)
            )
        return encoded_prompts

    def _tokenise_pieces(self, pieces: Sequence[Piece]) -> list[list[int]]:
        if self._continuing is None:
            return self._tokenise([piece.text for piece in pieces])
        return [
            (self._continuing if piece.continues else self._backend)
            .encode(piece.text, add_special_tokens=False)
            .ids
            for piece in pieces
        ]

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]
