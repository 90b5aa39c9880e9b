from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf.common.errors import ModelError
from rlhf.data.clean import clean_text
from rlhf.data.records import Message, Messages, as_list
from rlhf.data.tokens import ChatEncoder

TEXT = st.text(max_size=30).map(clean_text).filter(bool)
WIDE = 10_000


def dialogue(*texts: str) -> Messages:
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(TEXT, min_size=2, max_size=7).filter(lambda texts: len(texts) % 2 == 0),
    system=st.none() | TEXT,
)
def test_pieces_are_the_tokens_of_the_whole_and_the_mask_is_the_answers(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], system: str | None
) -> None:
    messages = dialogue(*texts)
    if system is not None:
        messages = (Message("system", system), *messages)
    encoder = ChatEncoder(tokenizer, WIDE, WIDE)
    (prompt,) = encoder.prompts([messages[:-1]])
    (response,) = encoder.responses([messages[:-1]], [messages[-1].content])
    assert prompt is not None

    whole = tokenizer.apply_chat_template(as_list(messages), tokenize=False)
    ids = prompt.ids + response.ids
    assert ids == tokenizer(whole.removesuffix("\n"), add_special_tokens=False)["input_ids"]
    assert (
        prompt.ids
        == tokenizer.apply_chat_template(as_list(messages[:-1]), add_generation_prompt=True)[
            "input_ids"
        ]
    )

    mask = prompt.answer_mask + [True] * len(response.ids)
    answers = [
        message.content + "<|im_end|>" for message in messages if message.role == "assistant"
    ]
    runs, current = [], []
    for token, learned in [*zip(ids, mask, strict=True), (0, False)]:
        if learned:
            current.append(token)
        elif current:
            runs.append(tokenizer.decode(current))
            current = []
    assert runs == answers


def test_oldest_exchanges_go_first_and_the_system_message_stays(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    system, turns = Message("system", "Be kind."), dialogue("one", "two", "three", "four", "five")
    wide = ChatEncoder(tokenizer, WIDE, WIDE)
    sizes = [
        len(p.ids)
        for p in wide.prompts([(system, *turns), (system, *turns[2:]), (system, *turns[4:])])
        if p
    ]
    for limit, kept in (
        (sizes[0], turns),
        (sizes[0] - 1, turns[2:]),
        (sizes[1], turns[2:]),
        (sizes[1] - 1, turns[4:]),
        (sizes[2], turns[4:]),
    ):
        (fitted,) = ChatEncoder(tokenizer, limit, WIDE).prompts([(system, *turns)])
        assert (
            fitted is not None and fitted.messages == (system, *kept) and len(fitted.ids) <= limit
        )
    assert ChatEncoder(tokenizer, sizes[2] - 1, WIDE).prompts([(system, *turns)]) == [None]


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=11).filter(lambda t: len(t) % 2 == 1),
    limit=st.integers(5, 120),
    system=st.booleans(),
)
def test_no_more_is_dropped_than_must_be(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], limit: int, system: bool
) -> None:
    before = (Message("system", "Be kind."),) if system else ()
    wide, narrow = ChatEncoder(tokenizer, WIDE, WIDE), ChatEncoder(tokenizer, limit, WIDE)
    choices = [(*before, *dialogue(*texts)[start:]) for start in range(0, len(texts), 2)]
    fitting = [
        encoded
        for encoded in wide.prompts(choices)
        if encoded is not None and len(encoded.ids) <= limit
    ]
    assert narrow.prompts(choices[:1]) == [fitting[0] if fitting else None]


def test_rows_do_not_disturb_each_other(tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [
        dialogue("a " * 40),
        dialogue("one", "two", "three"),
        dialogue("b " * 9 + "b", "two", "three"),
        dialogue("hi"),
    ]
    encoder = ChatEncoder(tokenizer, 24, WIDE)
    together = encoder.prompts(rows)
    assert together == [encoder.prompts([row])[0] for row in rows]
    assert together[0] is None and together[3] is not None


def test_long_answers_lose_their_end(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = [dialogue("Why?")] * 2
    whole = ChatEncoder(tokenizer, WIDE, WIDE).responses(prompts, ["Because it is so.", "No."])
    assert [response.ids[-1] for response in whole] == [tokenizer.eos_token_id] * 2 and not whole[
        0
    ].truncated
    limit = len(whole[0].ids) - 1
    long, short = ChatEncoder(tokenizer, WIDE, limit).responses(
        prompts, ["Because it is so.", "No."]
    )
    assert long.ids == whole[0].ids[:limit] and long.truncated
    assert short == whole[1]
    exact = ChatEncoder(tokenizer, WIDE, limit + 1).responses(prompts[:1], ["Because it is so."])
    assert not exact[0].truncated


def test_digits_and_line_ends_at_the_cuts(tokenizer: PreTrainedTokenizerBase) -> None:
    encoder = ChatEncoder(tokenizer, WIDE, WIDE)
    encoder.check_boundaries([dialogue("12", "\u00e9", "3\n4")] * 2, ["5", "\u4e2d\u6587"])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %} A:{% endif %}",
            "answers behind its generation prompt, as behind 'a",
        ),
        (
            "{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
            "answers behind its generation prompt, as behind 'a",
        ),
        (
            "{% for m in messages %}{% if m['role'] == 'assistant' %}A:{{ m['content'] if loop.last else '...' }}<|im_end|>"
            "{% else %}{{ m['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
            "earlier turns differently",
        ),
        # an end behind the last answer alone
        (
            "{% for m in messages %}{% if m['role'] == 'assistant' %}A:{% else %}Q:{% endif %}{{ m['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}A:{% else %}<|im_end|>{% endif %}",
            r"'<\|im_end\|>' behind every answer, as in 'bQ:cA:'",
        ),
        (
            "{% for m in messages %}\n{{ m['role'] }}: {{ m['content'] }}{% if loop.last and m['role'] == 'assistant' %}"
            "<|im_end|>{% endif %}{% endfor %}{% if add_generation_prompt %}\nassistant: {% endif %}",
            r"as in 'buser: cassistant: '",
        ),
    ],
)
def test_templates_that_cannot_be_cut_are_refused(
    base_model: Path, template: str, message: str
) -> None:
    own = AutoTokenizer.from_pretrained(base_model)
    own.chat_template = template
    encoder = ChatEncoder(own, WIDE, WIDE)
    with pytest.raises(ModelError, match=message):
        encoder.prompts([dialogue("a", "b", "c")])


def test_a_token_that_would_straddle_the_cut_is_told_and_the_answer_learnt_as_it_is_sampled(
    base_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = AutoTokenizer.from_pretrained(base_model)
    own.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}say th{{ m['content'] }}<|im_end|>"
        "{% else %}{{ m['content'] }} {% endif %}{% endfor %}{% if add_generation_prompt %}say th{% endif %}"
    )
    encoder = ChatEncoder(own, WIDE, WIDE)
    encoder.check_boundaries([dialogue("hm")], ["is"])
    assert "learnt as they are sampled" in caplog.text
    (prompt,) = encoder.prompts([dialogue("hm")])
    (answer,) = encoder.responses([dialogue("hm")], ["is"])
    assert prompt is not None
    assert prompt.ids == own.encode("hm say th") and answer.ids == own.encode("is<|im_end|>")
