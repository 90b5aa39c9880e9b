"""A chat template: dialogues as text, cut where answers begin and end."""

from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from rlhf.common.errors import ModelError
from rlhf.core.tokenizers import template_errors
from rlhf.data.frames import Rewriting, rewriting_of_answer, rewriting_of_prompt, stand_ins
from rlhf.data.records import Message, Messages, Role, as_list


@dataclass(frozen=True)
class Piece:
    """A part of a rendered dialogue that is tokenised by itself.

    continues: it goes on from text, so the tokenizer must not begin it as a text of its own
    """

    text: str
    is_answer: bool
    continues: bool = False
    is_target: bool = False


class ChatTemplate:
    """Writes dialogues, and tells what becomes of their turns.

    end_of_turn: the token that ends an answer
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.end_of_turn = str(tokenizer.eos_token)
        # the names that templates use: bos_token, eos_token, ...
        self._special_tokens = tokenizer.special_tokens_map
        # apply_chat_template does the same at several times the cost; check_boundaries of ChatEncoder
        # compares with it
        self._template = _compile_jinja_template(tokenizer.get_chat_template())
        # the tokenizer begins anew behind these
        self._breaks = tuple(str(token) for token in tokenizer.added_tokens_decoder.values())
        # what is written around turns, by the roles of a dialogue: once for all that are alike
        self._frames: dict[tuple[Role, ...], list[str]] = {}
        self._writes_system: dict[tuple[Role, ...], bool] = {}

    def render(self, messages: Messages, *, generation_prompt: bool) -> str:
        """A dialogue as text; raises TemplateError."""
        with template_errors():
            return self._template.render(
                messages=as_list(messages),
                add_generation_prompt=generation_prompt,
                # as apply_chat_template has them: a template may ask whether they are none
                tools=None,
                documents=None,
                **self._special_tokens,
            )

    def refusal(self, dialogue: Messages) -> str | None:
        """Why the template refuses these messages; None where it takes them."""
        try:
            self.render(dialogue, generation_prompt=dialogue[-1].role != "assistant")
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
        text = self.render(whole, generation_prompt=False)
        befores = [whole[:place] for place, turn in enumerate(whole) if turn.role == "assistant"]
        # answers must stand behind what they are sampled behind: Mistral's template moves the message
        if not all(text.startswith(self.render(it, generation_prompt=True)) for it in befores):
            return "it writes a system message elsewhere, or not at all, once an answer follows"
        # as Phi-3's first one
        roles = _roles(whole)
        if roles not in self._writes_system:
            standing = stand_ins(whole)
            text = self.render(standing, generation_prompt=False)
            self._writes_system[roles] = standing[0].content in text
        return None if self._writes_system[roles] else "it does not write a system message"

    # -- prompts --

    def pieces(self, messages: Messages) -> list[Piece]:
        """Cut a rendered prompt before and behind each answer: every other piece is one."""
        text = self.render(messages, generation_prompt=True)
        pieces, position = [], 0
        for index, message in enumerate(messages):
            if message.role != "assistant":
                continue
            before = self.render(messages[:index], generation_prompt=True)
            end = self._end_of_answer(text, before)
            pieces.append(self._piece(text, position, len(before)))
            pieces.append(self._piece(text, len(before), end, message))
            position = end
        return [*pieces, self._piece(text, position, len(text))]

    def rewriting(
        self, messages: Messages, pieces: Sequence[Piece]
    ) -> tuple[bool, Rewriting | None]:
        """Whether thoughts were left out of an earlier answer, and what else is not as it was written.

        pieces: of these messages. Raises ModelError where earlier answers are not there at all.
        """
        frame = self._frame(messages)
        texts = [piece.text for piece in pieces]
        answers = [turn.content for turn in stand_ins(messages) if turn.role == "assistant"]
        if any(answer not in part for answer, part in zip(answers, frame[1::2], strict=True)):
            raise ModelError(
                "the chat template writes earlier turns differently once later ones follow, as "
                f"in {''.join(texts)[-80:]!r}; model.chat_template: chatml or plain does not"
            )
        return rewriting_of_prompt(texts, frame, messages, self.end_of_turn)

    def _frame(self, messages: Messages) -> list[str]:
        """The pieces of a prompt, or the one of the answer that ends a dialogue, with stand-ins."""
        roles = _roles(messages)
        if roles not in self._frames:
            standing = stand_ins(messages)
            pieces = [self.answer(standing)] if roles[-1] == "assistant" else self.pieces(standing)
            self._frames[roles] = [piece.text for piece in pieces]
        return self._frames[roles]

    def _piece(self, text: str, start: int, end: int, answer: Message | None = None) -> Piece:
        is_target = answer is not None and answer.is_target
        return Piece(text[start:end], answer is not None, self._continues(text[:start]), is_target)

    def _continues(self, before: str) -> bool:
        """Whether what stands behind `before` goes on from text, and not from a special token."""
        return bool(before) and not before.endswith(self._breaks)

    # -- answers --

    def answer(self, dialogue: Messages) -> Piece:
        """The answer at the end of a dialogue, up to and with its end-of-turn token."""
        before = self.render(dialogue[:-1], generation_prompt=True)
        text = self.render(dialogue, generation_prompt=False)
        end = self._end_of_answer(text, before)
        return Piece(text[len(before) : end], True, self._continues(before))

    def rewriting_of_answer(self, dialogue: Messages, piece: Piece) -> Rewriting | None:
        """What is not as it was written in the answer at the end of a dialogue."""
        (frame,) = self._frame(dialogue)
        texts = [message.content for message in dialogue]
        return rewriting_of_answer(piece.text, frame, texts, self.end_of_turn)

    def _end_of_answer(self, text: str, before: str) -> int:
        """Where the answer behind `before` ends; behind the last one a template may end the document."""
        end = text.find(self.end_of_turn, len(before))
        others = "model.chat_template: chatml, plain or path:FILE sets another"
        if not text.startswith(before):
            raise ModelError(
                "the chat template does not put answers behind its generation prompt, as behind "
                f"{before[-80:]!r}; {others}"
            )
        if end < 0:
            raise ModelError(
                f"the chat template does not put {self.end_of_turn!r} behind every answer, as in "
                f"{text[len(before) :][:80]!r}; {others}"
            )
        return end + len(self.end_of_turn)


def _roles(messages: Messages) -> tuple[Role, ...]:
    return tuple(message.role for message in messages)
