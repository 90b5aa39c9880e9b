"""Chat templates by turns, and encoders with them."""

from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.data.records import Message, Messages
from rlhf.data.tokens import ChatEncoder

WIDE = 10_000
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
# as Qwen3's: the last answer with empty thoughts, earlier ones without theirs
THINKING = (
    "{% for m in messages %}<turn>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' %}{% if loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'].split('</think>')[-1].lstrip('\n') }}"
    "{% else %}{{ m['content'] }}{% endif %}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
)
TURNS = "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
ASKING = "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"


def with_template(directory: Path, template: str, *tokens: str) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_tokens([token for token in tokens if "think" not in token], special_tokens=True)
    tokenizer.add_tokens([token for token in tokens if "think" in token])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(directory)
    model = AutoModelForCausalLM.from_pretrained(directory)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(directory)
    return directory


def encoder_of(directory: Path) -> ChatEncoder:
    return ChatEncoder(AutoTokenizer.from_pretrained(directory), WIDE, WIDE)


def turns(*texts: str) -> Messages:
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


def whole_text(encoder: ChatEncoder, messages: Messages) -> str:
    (prompt,) = encoder.prompts([messages[:-1]])
    (answer,) = encoder.responses([messages[:-1]], [messages[-1].content])
    assert prompt is not None
    return str(encoder.tokenizer.decode(prompt.ids + answer.ids))
