"""Reading a tokenizer from a Hugging Face directory."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf.common.errors import ModelError

# "Human" and "Assistant", as in the paper's code and HH-RLHF; what a model without a template is asked with
PLAIN = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'user' %}{{ 'Human: ' + message['content'] }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% if message['role'] == 'user' and (not loop.last or add_generation_prompt) %}"
    "{{ '\n\nAssistant:' }}"
    "{% elif not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}"
)


def read_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer as it is, without code of its own; raises ModelError."""
    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    # of a broken file the Rust library raises nothing more special
    except Exception as error:
        raise ModelError(f"{directory}: transformers cannot load the tokenizer: {error}") from error


def begins_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer puts its bos token in front of a text by itself."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer("a")["input_ids"][:1] == [bos]


def plain_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """Text alone: no special token but the end token behind an answer, and bos where the tokenizer has it so."""
    return "{{ bos_token }}" + PLAIN if begins_with_bos(tokenizer) else PLAIN


def rendered_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[dict[str, str]]) -> str:
    """A prompt by the tokenizer's own template, up to where the answer begins.

    A system message that the template refuses or leaves out stands in front of the user's first words
    instead. Raises ModelError where it refuses the rest too.
    """
    for variant in (list(messages), folded(messages)):
        try:
            with template_errors():
                text = str(
                    tokenizer.apply_chat_template(
                        variant, add_generation_prompt=True, tokenize=False
                    )
                )
                refuse_without_system(text, variant)
                return text
        except TemplateError as error:
            refusal = error
    raise ModelError(f"the model's chat template refuses a dialogue: {refusal}")


@contextmanager
def template_errors() -> Iterator[None]:
    """Whatever a model's own template raises in the block, as TemplateError: it is code of others."""
    try:
        yield
    except TemplateError:
        raise
    except Exception as error:
        raise TemplateError(f"{type(error).__name__}: {error}") from error


def refuse_without_system(text: str, messages: Sequence[dict[str, str]]) -> None:
    """Raise TemplateError where a template wrote a dialogue without its system message, as Phi-3's first one."""
    first = messages[0]
    if first["role"] == "system" and first["content"].strip() not in text:
        raise TemplateError("it does not write a system message")


def folded(messages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """The same dialogue with its system message, if any, in the user's first turn."""
    first, *rest = messages
    if first["role"] != "system" or not rest:
        return list(messages)
    content = f"{first['content']}\n\n{rest[0]['content']}"
    return [{**rest[0], "content": content}, *rest[1:]]


def without_thoughts(answer: str) -> str:
    """What a template that leaves thoughts out keeps of an answer."""
    return answer.rpartition("</think>")[2].strip()


def end_ids(tokenizer: PreTrainedTokenizerBase, generation_config: Any) -> tuple[int, ...]:
    """Every token that ends a response, the tokenizer's first; () where none is named.

    generation_config: a model's, or None. It may name several, as Gemma's and Llama 3's do.
    """
    named = getattr(generation_config, "eos_token_id", None)
    others: Iterable[int] = [named] if isinstance(named, int) else named or ()
    own = tokenizer.eos_token_id
    first = () if own is None else (int(own),)
    return tuple(dict.fromkeys([*first, *(int(token) for token in others)]))
