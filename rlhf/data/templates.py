"""Fitting a tokenizer to the pipeline: chat template, end of turn, pad, added tokens."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from typing import Any

from jinja2 import TemplateError
from transformers import AddedToken, PreTrainedTokenizerBase

from rlhf.common.address import Address
from rlhf.common.errors import SourceError
from rlhf.common.files import text_of
from rlhf.core.tokenizers import plain_template, template_errors

# No system prompt is put in: what the model was told is what the dialogue says.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Puts a system message into the user's first turn, whatever template follows.
FOLD = (
    "{%- if messages[0]['role'] == 'system' and messages|length > 1 -%}"
    "{%- set messages = [{'role': messages[1]['role'],"
    " 'content': messages[0]['content'] + '\n\n' + messages[1]['content']}] + messages[2:] -%}"
    "{%- endif -%}"
)
# Tokens to pad with, in order of preference.
PADS = (
    "<|endoftext|>",
    "<pad>",
    "<|pad|>",
    "<|padding|>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<unk>",
)
# what is added where there is none of these, nor one that was kept in reserve
NEW_PAD = "<|pad|>"
_RESERVED = re.compile(r"reserved|unused|extra_id", re.IGNORECASE)

# Llama's own default, for templates that write today's date: the same dialogue gives the same tokens on any day
_DAY = datetime(2024, 7, 26)
_TODAY = re.compile(r"""strftime_now\(\s*(?:format\s*=\s*)?(["'])(?P<format>.*?)\1\s*\)""")
# what is left of it, under another name too; a question whether there is such a thing writes nothing
_CALL = re.compile(r"strftime_now(?!\s+is\s+(?:not\s+)?defined)\)?(?:\s*\([^()]*\)?)?")
_QUESTION = [{"role": "user", "content": "Question"}]
_ANSWER = "Answer7"
_OTHERS = "plain (text alone), chatml or path:FILE sets another"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """How the settings want a tokenizer.

    chat_template: chatml, own, plain or path:FILE
    add_tokens: joined to the vocabulary; pad_token: None: one is found, or added
    fold_system: system messages go into the user's first turn
    """

    chat_template: str = "chatml"
    add_tokens: Sequence[str] = ()
    pad_token: str | None = None
    fold_system: bool = False


def fit_tokenizer(tokenizer: PreTrainedTokenizerBase, fit: Fit) -> list[int]:
    """Set template, end of turn and pad; gives the ids that were added.

    Raises SourceError that names what is wrong, and the setting that mends it.
    """
    before = set(tokenizer.get_vocab().values())
    _add(tokenizer, [token for token in fit.add_tokens if token not in tokenizer.get_vocab()])
    _set_template(tokenizer, fit.chat_template)
    if fit.fold_system:
        tokenizer.chat_template = FOLD + tokenizer.chat_template
    _set_pad(tokenizer, fit.pad_token)
    return sorted(set(tokenizer.get_vocab().values()) - before)


def _add(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]) -> None:
    new = [AddedToken(token, special=True, normalized=False) for token in tokens]
    tokenizer.add_tokens(new, special_tokens=True)


# -- the template ----------------------------------------------------------------------------------


def _set_template(tokenizer: PreTrainedTokenizerBase, choice: str) -> None:
    if choice == "chatml":
        _set_chatml(tokenizer)
        return
    if choice == "plain":
        if not tokenizer.eos_token:
            raise SourceError("model.chat_template: plain: the tokenizer names no eos token")
        tokenizer.chat_template = plain_template(tokenizer)
        return
    if choice != "own":
        tokenizer.chat_template = text_of(Address.parse(choice).path)
    if not tokenizer.chat_template:
        raise SourceError(
            "model.chat_template: own: this model has no chat template; plain (text alone), "
            "chatml or path:FILE sets one"
        )
    try:
        template = str(tokenizer.get_chat_template())
    except ValueError:
        names = ", ".join(sorted(tokenizer.chat_template))
        raise SourceError(
            f"model.chat_template: {choice}: templates for {names}, and none called default; {_OTHERS}"
        ) from None
    try:
        tokenizer.chat_template = _on_one_day(template)
        behind = _behind_answer(tokenizer)
    except (SourceError, TemplateError) as error:
        raise SourceError(f"model.chat_template: {choice}: {error}; {_OTHERS}") from None
    _set_end_of_turn(tokenizer, behind)


def _set_chatml(tokenizer: PreTrainedTokenizerBase) -> None:
    missing = [
        token
        for token in ("<|im_start|>", "<|im_end|>")
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1
    ]
    if missing:
        other = "own keeps the model's template" if tokenizer.chat_template else "plain needs none"
        raise SourceError(
            f"model.chat_template: chatml: the tokenizer lacks {' and '.join(missing)}; "
            f"{other}, and model.add_tokens: {list(missing)} adds them".replace("'", '"')
        )
    tokenizer.chat_template = CHATML
    # base models end documents with another token
    tokenizer.eos_token = "<|im_end|>"


def _on_one_day(template: str) -> str:
    """The template with a fixed date in place of today's; raises SourceError where that cannot be done."""
    found = _TODAY.sub(lambda match: repr(_DAY.strftime(match["format"])), template)
    if left := _CALL.search(found):
        raise SourceError(
            f"it writes today's date in a format that stands elsewhere, {left[0]}, so that the tokens of "
            "a row would change every day; put a fixed date there"
        )
    if found != template:
        log.warning(
            "the chat template writes today's date: fixed to %s, so that a run can be repeated",
            _DAY.date(),
        )
    return found


def _behind_answer(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes behind an answer.

    Raises SourceError where answers do not stand behind what they are sampled behind, and
    TemplateError of the template's own.
    """
    told = _rendered(tokenizer, [*_QUESTION, {"role": "assistant", "content": _ANSWER}])
    asked = _rendered(tokenizer, _QUESTION, asks=True)
    begin = told.rfind(_ANSWER)
    if begin < 0:
        raise SourceError("the template does not write the answer")
    if not told[:begin].startswith(asked):
        pairs = zip(asked, told, strict=False)
        opened = asked[sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs)) :]
        raise SourceError(
            f"its generation prompt ends in {opened!r}, which it does not put before an answer that "
            "is given, so answers would not be learnt where they are sampled"
        )
    heading = told[len(asked) : begin].strip()
    if heading and asked == _rendered(tokenizer, _QUESTION):
        raise SourceError(
            f"it has no generation prompt (add_generation_prompt), so {heading!r} would be a part of "
            "every answer"
        )
    return told[begin + len(_ANSWER) :]


def _rendered(tokenizer: PreTrainedTokenizerBase, chat: Any, *, asks: bool = False) -> str:
    with template_errors():
        return str(tokenizer.apply_chat_template(chat, add_generation_prompt=asks, tokenize=False))


def _set_end_of_turn(tokenizer: PreTrainedTokenizerBase, behind: str) -> None:
    """Take for eos what the template writes behind an answer: Gemma's, for one, is not its eos."""
    names = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
    places = {behind.find(name): name for name in names if name.strip() and name in behind}
    if not places:
        raise SourceError(
            "the chat template puts no special token behind an answer, so nothing would end it; "
            "model.chat_template: plain or path:FILE sets another"
        )
    first, former = places[min(places)], tokenizer.eos_token
    if first != former:
        # the template's own eos_token stays what it was
        if former:
            kept = f"{{%- set eos_token = {former!r} -%}}"
            tokenizer.chat_template = kept + str(tokenizer.chat_template)
        tokenizer.eos_token = first


# -- the pad ---------------------------------------------------------------------------------------


def _set_pad(tokenizer: PreTrainedTokenizerBase, named: str | None) -> None:
    """Padding is masked out of every loss, so it must not be the end of turn."""
    vocabulary = tokenizer.get_vocab()
    if named is not None:
        if named == tokenizer.eos_token:
            raise SourceError(f"model.pad_token: {named!r} ends answers, which padding would hide")
        marks = {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}
        if named in vocabulary and named not in marks:
            raise SourceError(
                f"model.pad_token: {named!r} is a piece of ordinary text to this tokenizer; name a "
                "special token, or one that it does not have, which is then added"
            )
        if named not in vocabulary:
            _add(tokenizer, [named])
        tokenizer.pad_token = named
        return
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    reserved = [name for name in sorted(tokenizer.get_added_vocab()) if _RESERVED.search(name)]
    found = [
        token
        for token in (*PADS, *reserved)
        if token in vocabulary and token != tokenizer.eos_token
    ]
    if not found:
        log.warning("no token to pad with: %s is added (model.pad_token names another)", NEW_PAD)
        _add(tokenizer, [NEW_PAD])
    tokenizer.pad_token = found[0] if found else NEW_PAD
