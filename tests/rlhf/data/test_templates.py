"""How a tokenizer and a model are fitted to a chat template."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast
from turn_templates import (
    ASKING,
    GEMMA,
    TURNS,
    WIDE,
    encoder_of,
    turns,
    whole_text,
    with_template,
)

from rlhf.common.errors import SourceError
from rlhf.core.tokenizers import end_ids
from rlhf.data.base_model import finish_base_model
from rlhf.data.records import Message
from rlhf.data.templates import Fit, fit_tokenizer
from rlhf.data.tokens import ChatEncoder
from rlhf.models.saving import load_causal_lm


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


def test_the_date_of_today_is_fixed(bare: Path) -> None:
    date = "{% if strftime_now is defined %}{{ strftime_now(format='%d %b %Y') }}{% endif %}"
    with_template(bare, date + GEMMA, "<turn>", "<end>")
    finish_base_model(bare, Fit("own"))
    assert whole_text(encoder_of(bare), turns("Why?", "So.")).startswith("26 Jul 2024<turn>")


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
