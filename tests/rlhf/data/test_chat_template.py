"""What a chat template makes of a dialogue: what it refuses, leaves out, and changes."""

import copy
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import PreTrainedTokenizerFast
from turn_templates import (
    ASKING,
    GEMMA,
    THINKING,
    TURNS,
    WIDE,
    encoder_of,
    turns,
    whole_text,
    with_template,
)

from rlhf.data.base_model import finish_base_model
from rlhf.data.encode import why_no_prompt
from rlhf.data.records import Message
from rlhf.data.templates import Fit, fit_tokenizer
from rlhf.data.tokens import ChatEncoder


def test_a_template_that_fails_on_a_dialogue_refuses_it(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    own = copy.deepcopy(tokenizer)
    own.chat_template = (
        TURNS.replace("m['content']", "m['content'] + (1 if 'x' in m['content'] else '')") + ASKING
    )
    encoder = ChatEncoder(own, WIDE, WIDE)
    assert encoder.refusal(turns("a")) is None
    refusal = encoder.refusal(turns("x"))
    assert refusal is not None and refusal.startswith("TypeError")


@pytest.mark.parametrize("fold", [False, True])
def test_a_system_message_that_the_template_refuses(bare: Path, fold: bool) -> None:
    with_template(bare, GEMMA, "<turn>", "<end>")
    finish_base_model(bare, Fit("own", fold_system=fold))
    encoder = encoder_of(bare)
    dialogue = (Message("system", "Be kind."), *turns("Why?"))
    found, other = encoder.prompts([dialogue, turns("Why?")])
    assert other is not None
    if fold:
        assert found is not None
        text = encoder.tokenizer.decode(found.ids)
        assert text == "<turn>user\nBe kind.\n\nWhy?<end>\n<turn>assistant\n"
    else:
        assert found is None and encoder.refusal(dialogue) == "no system"


# the first as Mistral's, which forgets the system message once an answer follows; the second as its
# tokenizers of later versions, which put it into the last question
FORGETS = "loop.last"
LAST_QUESTION = (
    "loop.index0 == messages | length - (2 if messages[-1]['role'] == 'assistant' else 1)"
)


@pytest.mark.parametrize("where", [FORGETS, LAST_QUESTION])
def test_a_system_message_that_moves_is_refused_and_folded_where_asked(
    tokenizer: PreTrainedTokenizerFast, where: str
) -> None:
    system = Message("system", "Be kind.")
    template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}<turn>"
        "{% if messages[0]['role'] == 'system' and WHERE %}{{ messages[0]['content'] }} {% endif %}"
        "{{ m['content'] }}<ask>{% elif m['role'] == 'assistant' %}{{ m['content'] }}<end>{% endif %}"
        "{% endfor %}"
    ).replace("WHERE", where)
    for fold in (False, True):
        own = copy.deepcopy(tokenizer)
        own.add_tokens(["<turn>", "<ask>", "<end>"], special_tokens=True)
        own.chat_template = template
        fit_tokenizer(own, Fit("own", fold_system=fold))
        encoder = ChatEncoder(own, WIDE, WIDE)
        dialogue = (system, *turns("Why?", "So.", "And?"))
        found, other = encoder.prompts([dialogue, turns("Why?", "So.", "And?")])
        assert other is not None
        if fold:
            assert found is not None
            text = own.decode(found.ids)
            assert text == "<turn>Be kind.\n\nWhy?<ask>So.<end><turn>And?<ask>"
        else:
            assert found is None
            assert "once an answer follows" in str(encoder.refusal(dialogue))


@pytest.mark.parametrize("written", ["", "{{ '<turn>system<end>' }}"])
def test_a_system_message_that_the_template_leaves_out_is_not_lost_in_silence(
    tokenizer: PreTrainedTokenizerFast, written: str
) -> None:
    """As Phi-3's first template and Vicuna's relatives do: it raises nothing, and has no such branch."""
    dialogue = (Message("system", "Be kind."), *turns("Why?", "So.", "And?"))
    for fold in (False, True):
        own = copy.deepcopy(tokenizer)
        own.add_tokens(["<turn>", "<end>"], special_tokens=True)
        own.chat_template = (
            "{% for m in messages %}{% if m['role'] == 'system' %}WRITTEN{% else %}"
            "<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endif %}{% endfor %}" + ASKING
        ).replace("WRITTEN", written)
        fit_tokenizer(own, Fit("own", fold_system=fold))
        encoder = ChatEncoder(own, WIDE, WIDE)
        found, other = encoder.prompts([dialogue, dialogue[1:]])
        assert other is not None
        if fold:
            assert found is not None and own.decode(found.ids).startswith(
                "<turn>user\nBe kind.\n\nWhy?<end>"
            )
        else:
            assert found is None
            assert encoder.refusal(dialogue) == "it does not write a system message"
            assert why_no_prompt(encoder, dialogue) == "template_refuses_system"


def test_thoughts_are_text_and_those_of_earlier_turns_are_counted(bare: Path) -> None:
    with_template(bare, THINKING, "<turn>", "<end>", "<think>", "</think>")
    finish_base_model(bare, Fit("own"))
    encoder = encoder_of(bare)
    assert "<think>" not in encoder.commands and {"<turn>", "<end>"} <= encoder.commands
    thinking, short = turns("a", "<think>hm</think>\n\nb", "c"), turns("a", "b", "c")
    first, second = encoder.prompts([thinking, short])
    assert first is not None and second is not None
    assert first.thoughts_cut and not second.thoughts_cut
    assert first.ids == second.ids
    text = encoder.tokenizer.decode(first.ids)
    assert (
        text == "<turn>user\na<end>\n<turn>assistant\nb<end>\n<turn>user\nc<end>\n<turn>assistant\n"
    )
    assert whole_text(encoder, turns("a", "b")).endswith("<think>\n\n</think>\n\nb<end>")


def test_answers_whose_blanks_a_template_takes_off_are_counted(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """As Llama 3's and Gemma's do: an answer in code loses its indentation."""
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<turn>", "<end>"], special_tokens=True)
    for trims in ("", " | trim"):
        own.chat_template = TURNS.replace("m['content']", f"(m['content']{trims})") + ASKING
        fit_tokenizer(own, Fit("own"))
        encoder = ChatEncoder(own, WIDE, WIDE)
        found = encoder.responses([turns("Why?")] * 3, ["    return 1", "So.\n", "So."])
        assert [bool(answer.rewritten) for answer in found] == [bool(trims), bool(trims), False]


CHANGES = {
    "trim": ["  Why?", "Why?\n", "\nWhy?"],
    "lower": ["Why?", "A", "U"],
    "truncate(3, true, '', 0)": ["Why?", "user"],
}


@pytest.mark.parametrize("change", CHANGES)
def test_turns_that_a_template_changes_are_counted(
    tokenizer: PreTrainedTokenizerFast, change: str
) -> None:
    """As blanks at the ends, which Llama 3's and Gemma's take off; what stands around turns is no change."""
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<turn>", "<end>"], special_tokens=True)
    own.chat_template = (
        "Today is 26 July.\n" + TURNS.replace("m['content']", f"(m['content'] | {change})") + ASKING
    )
    # `fetch` refuses one that changes a plain answer
    own.eos_token = "<end>"
    encoder = ChatEncoder(own, WIDE, WIDE)
    for text in CHANGES[change]:
        rows = [
            turns(text),
            (Message("system", text), *turns("w")),
            turns("w", "x", text),
            # an earlier answer is learnt too
            turns("w", text, "y"),
        ]
        for row in rows:
            (found,) = encoder.prompts([row])
            assert found is not None and found.rewritten and not found.thoughts_cut
            before, after = found.rewritten
            assert before != after and after in own.decode(found.ids)
    kept = [turns("?"), (Message("system", "?"), *turns("w", "x", "y"))]
    assert [bool(one and one.rewritten) for one in encoder.prompts(kept)] == [False, False]


def test_thoughts_that_are_left_out_are_counted_as_that_alone(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<turn>", "<end>"], special_tokens=True)
    own.chat_template = THINKING
    fit_tokenizer(own, Fit("own"))
    encoder = ChatEncoder(own, WIDE, WIDE)
    thinking = turns("a", "<think>hm</think>\n\nb", "c")
    blanks = turns("a", "\nb", "c")
    found = encoder.prompts([thinking, blanks, turns(" a ", "b", "c")])
    assert [one and (one.thoughts_cut, bool(one.rewritten)) for one in found] == [
        (True, False),
        (False, True),
        (False, False),
    ]


def sentencepiece(text: str) -> PreTrainedTokenizerFast:
    """A word that begins a text gets a blank before it, as with Llama 2's and Mistral's."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    core.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ["<unk>", "<s>", "</s>"]
    trainer = trainers.BpeTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    core.train_from_iterator([text] * 9, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}[{{ m['role'] }}]\n{{ m['content'] }}</s>\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]\n{% endif %}",
        "{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
        "{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}",
    ],
)
def test_pieces_of_sentencepiece_say_what_was_written(template: str) -> None:
    own = sentencepiece("[user]\n[assistant]\n[INST] why not, so it is [/INST]")
    own.chat_template = template
    encoder = ChatEncoder(own, WIDE, WIDE)
    messages = turns("why", "not so", "why not", "it is")
    asked = own.apply_chat_template(
        [{"role": m.role, "content": m.content} for m in messages], tokenize=False
    )
    (prompt,) = encoder.prompts([messages[:-1]])
    (answer,) = encoder.responses([messages[:-1]], ["it is"])
    assert prompt is not None
    ids = prompt.ids + answer.ids
    # the pieces are those of the whole where no token reaches over a cut, and the text always
    whole = own(asked, add_special_tokens=False)["input_ids"]
    assert own.decode(whole).startswith(own.decode(ids))
    blank = own.convert_tokens_to_ids("\u2581")
    assert answer.ids[0] != blank or template.endswith("{% endif %}{% endfor %}")
    encoder.check_boundaries([messages[:-1]], ["it is"])
