import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from rlhf.common.errors import SourceError
from rlhf.core.tokenizers import end_ids
from rlhf.data.base_model import finish_base_model
from rlhf.data.encode import why_no_prompt
from rlhf.data.records import Message, Messages
from rlhf.data.templates import Fit, fit_tokenizer
from rlhf.data.tokens import ChatEncoder
from rlhf.models.saving import load_causal_lm

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


@pytest.fixture
def bare(base_model: Path, tmp_path: Path) -> Path:
    """A base with one special token for everything, and neither template nor pad."""
    directory = Path(shutil.copytree(base_model, tmp_path / "bare"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    names = {"<|im_start|>": "<word a>", "<|im_end|>": "<word b>"}
    backend["added_tokens"] = [t for t in backend["added_tokens"] if t["content"] not in names]
    vocabulary = backend["model"]["vocab"]
    backend["model"]["vocab"] = {names.get(token, token): id for token, id in vocabulary.items()}
    for file in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        (directory / file).unlink(missing_ok=True)
    own = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token="<|endoftext|>"
    )
    own.save_pretrained(directory)
    for name in ("config.json", "generation_config.json"):
        content = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps(content | {"eos_token_id": 0}))
    return directory


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


def test_plain_text_needs_no_special_token_but_the_end(bare: Path) -> None:
    finish_base_model(bare, Fit("plain"))
    encoder = encoder_of(bare)
    messages = (Message("system", "Be kind."), *turns("Why?", "So.", "And?", "Thus."))
    assert whole_text(encoder, messages) == (
        "Be kind.\n\nHuman: Why?\n\nAssistant: So.<|endoftext|>\n\nHuman: And?\n\nAssistant: Thus.<|endoftext|>"
    )
    # a pad of its own, which no answer ends with, and an embedding for it
    tokenizer, model = encoder.tokenizer, load_causal_lm(bare)
    assert tokenizer.pad_token == "<|pad|>" and tokenizer.eos_token == "<|endoftext|>"
    embeddings = model.get_input_embeddings().weight
    assert len(embeddings) == len(tokenizer) == tokenizer.pad_token_id + 1
    # of the size of the others
    usual = embeddings[:-1].norm(dim=1).mean()
    assert 0.5 * usual < embeddings[-1].norm() < 2 * usual


def test_chatml_comes_with_its_tokens_where_asked(bare: Path) -> None:
    with pytest.raises(
        SourceError, match=r'model.add_tokens: \["<\|im_start\|>", "<\|im_end\|>"\]'
    ):
        finish_base_model(bare, Fit("chatml"))
    before = load_causal_lm(bare).get_input_embeddings().weight.clone()
    finish_base_model(bare, Fit("chatml", add_tokens=("<|im_start|>", "<|im_end|>")))
    text = whole_text(encoder_of(bare), turns("Why?", "So."))
    assert text == "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>"
    # the others are what they were
    model = load_causal_lm(bare)
    assert torch.equal(model.get_input_embeddings().weight[: len(before)], before)
    # the new ones differ, before anything is learnt too
    ids = AutoTokenizer.from_pretrained(bare).convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        rows = layer.weight.detach()
        start, end = rows[ids]
        assert float((start - end).norm() / rows.norm(dim=1).mean()) > 0.5


def test_a_pad_is_named_or_kept_in_reserve(bare: Path) -> None:
    with pytest.raises(SourceError, match="ends answers, which padding would hide"):
        finish_base_model(bare, Fit("plain", pad_token="<|endoftext|>"))
    piece = next(word for word in AutoTokenizer.from_pretrained(bare).get_vocab() if word.isalpha())
    with pytest.raises(SourceError, match=f"'{piece}' is a piece of ordinary text"):
        finish_base_model(bare, Fit("plain", pad_token=piece))
    finish_base_model(bare, Fit("plain", pad_token="<mine>"))
    assert AutoTokenizer.from_pretrained(bare).pad_token == "<mine>"


@pytest.mark.parametrize("pad", ["<|padding|>", "[PAD]"])
def test_a_pad_of_the_tokenizer_is_found_though_it_names_none(bare: Path, pad: str) -> None:
    """Pythia's stands in its vocabulary alone."""
    with_template(bare, "", pad)
    before = len(AutoTokenizer.from_pretrained(bare))
    finish_base_model(bare, Fit("plain"))
    tokenizer = AutoTokenizer.from_pretrained(bare)
    assert (tokenizer.pad_token, len(tokenizer)) == (pad, before)


def test_a_template_of_ones_own_says_what_ends_a_turn(bare: Path, tmp_path: Path) -> None:
    file = tmp_path / "turns.jinja"
    file.write_text(GEMMA)
    finish_base_model(bare, Fit(f"path:{file}", add_tokens=("<turn>", "<end>")))
    encoder = encoder_of(bare)
    assert encoder.tokenizer.eos_token == "<end>"
    # the base's own end of a document ends an answer too
    ends = end_ids(encoder.tokenizer, load_causal_lm(bare).generation_config)
    assert ends == (encoder.tokenizer.convert_tokens_to_ids("<end>"), 0)


TURNS = "{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<end>\n{% endfor %}"
ASKING = "{% if add_generation_prompt %}<turn>assistant\n{% endif %}"
# as of DeepSeek-R1's distilled models
OPENS_THOUGHTS = TURNS + "{% if add_generation_prompt %}<turn>assistant\n<think>\n{% endif %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (OPENS_THOUGHTS, r"generation prompt ends in '<think>\\n', which it does not put before"),
        (TURNS, r"no generation prompt .* so '<turn>assistant' would be a part of every answer"),
        (TURNS.replace("'content'] ", "'content'] | upper ") + ASKING, "does not write the answer"),
        (TURNS.replace("m['role']", "m['role'] + 1") + ASKING, "TypeError: can only concatenate"),
        (GEMMA.replace("'system'", "'user'"), "no system"),
        (
            "{% set form = '%d %b' %}{{ strftime_now(form) }}" + TURNS + ASKING,
            r"today's date in a format that stands elsewhere, strftime_now\(form\), so that",
        ),
        (
            "{% set now = strftime_now %}{{ now('%d %b %Y') }}" + TURNS + ASKING,
            r"today's date in a format that stands elsewhere, strftime_now, so that",
        ),
        (
            "{{ (strftime_now)('%d %b %Y') }}" + TURNS + ASKING,
            r"today's date in a format that stands elsewhere, strftime_now\)\('%d %b %Y'\), so that",
        ),
        ("{% for m in messages %}", "Unexpected end of template"),
        ({"rag": GEMMA, "tool_use": GEMMA}, "templates for rag, tool_use, and none called default"),
    ],
)
def test_a_template_that_answers_do_not_fit_is_refused_by_its_setting(
    tokenizer: PreTrainedTokenizerFast, template: str | dict[str, str], message: str
) -> None:
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<turn>", "<end>"], special_tokens=True)
    own.chat_template = template
    refused = (
        rf"model\.chat_template: own: .*{message}.*; plain \(text alone\), chatml or path:FILE"
    )
    with pytest.raises(SourceError, match=refused):
        fit_tokenizer(own, Fit("own"))


def test_of_several_templates_the_default_is_taken(tokenizer: PreTrainedTokenizerFast) -> None:
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<turn>", "<end>"], special_tokens=True)
    own.chat_template = {"default": GEMMA, "tool_use": ""}
    fit_tokenizer(own, Fit("own"))
    assert own.eos_token == "<end>"


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


def test_a_template_may_ask_whether_there_are_tools(tokenizer: PreTrainedTokenizerFast) -> None:
    """As transformers renders it, with none."""
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<turn>", "<end>"], special_tokens=True)
    asks = "{% if NAME is not none %}{{ NAME | tojson }}{% endif %}"
    own.chat_template = "".join(
        [*(asks.replace("NAME", name) for name in ("tools", "documents")), TURNS, ASKING]
    )
    fit_tokenizer(own, Fit("own"))
    encoder = ChatEncoder(own, WIDE, WIDE)
    assert whole_text(encoder, turns("Why?", "So.")) == (
        "<turn>user\nWhy?<end>\n<turn>assistant\nSo.<end>"
    )
    encoder.check_boundaries([turns("Why?")], ["So."])


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


def test_the_date_of_today_is_fixed(bare: Path) -> None:
    date = "{% if strftime_now is defined %}{{ strftime_now(format='%d %b %Y') }}{% endif %}"
    with_template(bare, date + GEMMA, "<turn>", "<end>")
    finish_base_model(bare, Fit("own"))
    assert whole_text(encoder_of(bare), turns("Why?", "So.")).startswith("26 Jul 2024<turn>")


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


@pytest.mark.parametrize("rounded", [0, 40])
def test_tokens_without_a_name_have_no_logit(
    bare: Path, rounded: int, make_logits: Callable[[Path], torch.Tensor]
) -> None:
    finish_base_model(bare, Fit("plain"))
    count = len(AutoTokenizer.from_pretrained(bare))
    model = AutoModelForCausalLM.from_pretrained(bare)
    model.resize_token_embeddings(count + rounded, mean_resizing=False)
    model.save_pretrained(bare)
    assert make_logits(bare).shape[-1] == count


@pytest.fixture
def make_logits() -> Callable[[Path], torch.Tensor]:
    from rlhf.models.backbone import unembed

    def logits(directory: Path) -> torch.Tensor:
        model = load_causal_lm(directory)
        return unembed(model, torch.randn(1, int(model.config.hidden_size)))

    return logits
