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
from transformers.utils.chat_template_utils import _compile_jinja_template

from rlhf.common.errors import ModelError
from rlhf.core.tokenizers import template_errors, without_thoughts
from rlhf.data.continuing import continuing_backend
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
    """

    messages: Messages
    ids: list[int]
    answer_mask: list[bool]
    target_mask: list[bool]
    thoughts_cut: bool = False


@dataclass(frozen=True)
class EncodedResponse:
    """Tokens of one answer, ending with the end-of-turn token unless `truncated`.

    rewritten: the template wrote something else than the answer: without its thoughts, or its blanks
    """

    ids: list[int]
    truncated: bool
    rewritten: bool = False


@dataclass(frozen=True)
class _Piece:
    """A part of a rendered dialogue that is tokenised by itself.

    continues: it goes on from text, so the tokenizer must not begin it as a text of its own
    """

    text: str
    is_answer: bool
    continues: bool = False
    is_target: bool = False


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
        self._continuing = continuing_backend(backend)
        added = backend.get_added_tokens_decoder().values()
        # the tokenizer begins anew behind these
        self._breaks = tuple(token.content for token in added)
        # apply_chat_template and __call__ do the same at several times the cost; check_boundaries
        # compares with them.
        self._template = _compile_jinja_template(tokenizer.get_chat_template())

        # tokens that a template writes by itself: within a text they would act as commands
        self.commands = self._commands()

    def _commands(self) -> frozenset[str]:
        """Special tokens, and added ones that the template begins or ends turns with.

        Not each added token: `<think>` is one that answers are written with.
        """
        added = self.tokenizer.added_tokens_decoder.values()
        special = {str(token) for token in added if token.special}
        try:
            turn = self._render((Message("user", "?"),), generation_prompt=True)
        except TemplateError:
            turn = ""
        written = {str(token) for token in added if str(token) in turn}
        return frozenset({*special, *written, *self.tokenizer.all_special_tokens})

    def refusal(self, dialogue: Messages) -> str | None:
        """Why the template refuses these messages; None where it takes them."""
        try:
            self._render(dialogue, generation_prompt=dialogue[-1].role != "assistant")
            if dialogue[0].role == "system":
                return self._refusal_of_system(dialogue)
        except TemplateError as error:
            return str(error)
        return None

    def _refusal_of_system(self, dialogue: Messages) -> str | None:
        """Why the template has no place for the system message, although it raises nothing."""
        whole = dialogue
        if whole[-1].role != "assistant":
            whole = (*dialogue, Message("assistant", "?"))
        text = self._render(whole, generation_prompt=False)
        befores = [whole[:place] for place, turn in enumerate(whole) if turn.role == "assistant"]
        # answers must stand behind what they are sampled behind: Mistral's template moves the message
        if not all(text.startswith(self._render(it, generation_prompt=True)) for it in befores):
            return "it writes a system message elsewhere, or not at all, once an answer follows"
        # as Phi-3's first one; a template may take blanks off
        if dialogue[0].content.strip() not in text:
            return "it does not write a system message"
        return None

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
        pieces = []
        for messages, answer in zip(prompts, answers, strict=True):
            before = self._render(messages, generation_prompt=True)
            text = self._answer_text((*messages, Message("assistant", answer)), before)
            pieces.append(_Piece(text, is_answer=True, continues=self._continues(before)))

        limit = self.max_response
        return [
            EncodedResponse(ids[:limit], len(ids) > limit, rewritten=answer not in piece.text)
            for ids, piece, answer in zip(
                self._tokenise_pieces(pieces), pieces, answers, strict=True
            )
        ]

    def answer_text(self, messages: Messages, answer: str) -> str:
        """An answer as the template writes it behind its prompt, end-of-turn token included."""
        before = self._render(messages, generation_prompt=True)
        return self._answer_text((*messages, Message("assistant", answer)), before)

    def going_on(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode texts by themselves, each of which goes on from another one."""
        return self._tokenise_pieces(
            [_Piece(text, is_answer=True, continues=True) for text in texts]
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
        pieces_of_prompts = [self._pieces(messages) for messages in dialogues]
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
            answers = [message.content for message in messages if message.role == "assistant"]
            written = [piece.text for piece in pieces if piece.is_answer]
            cut = any(
                answer.strip() not in text for answer, text in zip(answers, written, strict=True)
            )
            encoded_prompts.append(EncodedPrompt(messages, ids, answer_mask, target_mask, cut))
        return encoded_prompts

    def _pieces(self, messages: Messages) -> list[_Piece]:
        """Cut a rendered prompt before and behind each answer."""
        text = self._render(messages, generation_prompt=True)
        pieces, position = [], 0
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            # as the whole has it: Qwen3 leaves the thoughts out of earlier answers
            before = self._render(messages[:index], generation_prompt=True)
            end = self._end_of_answer(text, before)
            if without_thoughts(message.content) not in text[len(before) : end]:
                raise ModelError(
                    "the chat template writes earlier turns differently once later ones follow, as "
                    f"in {text[-80:]!r}; model.chat_template: chatml or plain does not"
                )
            pieces.append(self._piece(text, position, len(before)))
            pieces.append(self._piece(text, len(before), end, message))
            position = end
        return [*pieces, self._piece(text, position, len(text))]

    def _piece(self, text: str, start: int, end: int, answer: Message | None = None) -> _Piece:
        is_target = answer is not None and answer.is_target
        continues = self._continues(text[:start])
        return _Piece(text[start:end], answer is not None, continues, is_target)

    def _continues(self, before: str) -> bool:
        """Whether what stands behind `before` goes on from text, and not from a special token."""
        return bool(before) and not before.endswith(self._breaks)

    def _answer_text(self, dialogue: Messages, before: str) -> str:
        """The answer at the end of a dialogue, up to and with its end-of-turn token.

        before: the rendered messages before the answer, generation prompt included
        """
        text = self._render(dialogue, generation_prompt=False)
        return text[len(before) : self._end_of_answer(text, before)]

    def _end_of_answer(self, text: str, before: str) -> int:
        """Where the answer behind `before` ends; behind the last one a template may end the document."""
        end = text.find(self._end_of_turn, len(before))
        others = "model.chat_template: chatml, plain or path:FILE sets another"
        if not text.startswith(before):
            raise ModelError(
                "the chat template does not put answers behind its generation prompt, as behind "
                f"{before[-80:]!r}; {others}"
            )
        if end < 0:
            raise ModelError(
                f"the chat template does not put {self._end_of_turn!r} behind every answer, as in "
                f"{text[len(before) :][:80]!r}; {others}"
            )
        return end + len(self._end_of_turn)

    def _render(self, messages: Messages, *, generation_prompt: bool) -> str:
        with template_errors():
            return self._template.render(
                messages=as_list(messages),
                add_generation_prompt=generation_prompt,
                # as apply_chat_template has them: a template may ask whether they are none
                tools=None,
                documents=None,
                **self._special_tokens,
            )

    def _tokenise_pieces(self, pieces: Sequence[_Piece]) -> list[list[int]]:
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
