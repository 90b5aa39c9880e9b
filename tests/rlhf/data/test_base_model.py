import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, Lfm2Config, Lfm2ForCausalLM, LlamaForCausalLM

from rlhf.common.errors import SourceError
from rlhf.data.base_model import check_base_model, finish_base_model
from rlhf.data.templates import CHATML, Fit


@pytest.fixture
def model(base_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(base_model, tmp_path / "model"))


def test_chatml_puts_no_words_into_the_dialogue(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    chat = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]
    asked, told = (
        "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n",
        "Because.<|im_end|>\n",
    )
    assert tokenizer.apply_chat_template(chat, tokenize=False) == asked + told
    assert (
        tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True) == asked
    )


def test_pad_is_never_the_end_of_turn(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.pad_token = "<|im_end|>"
    tokenizer.save_pretrained(model)
    finish_base_model(model, Fit())
    assert AutoTokenizer.from_pretrained(model).pad_token == "<|endoftext|>"
    for name in ("config.json", "generation_config.json"):
        content = json.loads((model / name).read_text())
        assert (content["pad_token_id"], content["eos_token_id"]) == (0, 2)


def test_chatml_ends_turns_where_the_model_ended_documents(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.eos_token = tokenizer.pad_token = "<|endoftext|>"  # as base models come
    tokenizer.save_pretrained(model)
    finish_base_model(model, Fit())
    finished = AutoTokenizer.from_pretrained(model)
    assert (finished.eos_token, finished.pad_token) == ("<|im_end|>", "<|endoftext|>")


def test_own_template_is_kept_or_missed(model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = CHATML + "{# mine #}"
    tokenizer.save_pretrained(model)
    finish_base_model(model, Fit("own"))
    assert AutoTokenizer.from_pretrained(model).chat_template.endswith("{# mine #}")
    finish_base_model(model, Fit())
    (model / "chat_template.jinja").unlink()
    with pytest.raises(SourceError, match="own: this model has no chat template"):
        finish_base_model(model, Fit("own"))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.json", "no config.json"),
        ("tokenizer_config.json", "no tokenizer_config.json"),
        ("model.safetensors", "no \\*.safetensors"),
    ],
)
def test_incomplete_directories_are_refused(model: Path, missing: str, message: str) -> None:
    (model / missing).unlink()
    with pytest.raises(SourceError, match=message):
        finish_base_model(model, Fit())


def test_weights_that_do_not_fit_are_refused(model: Path) -> None:
    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        SourceError, match=r"weights are missing: model\.layers\.1\.mlp\.up_proj\.weight$"
    ):
        finish_base_model(model, Fit())
    (model / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{cut")
    with pytest.raises(SourceError, match="cannot load what came"):
        finish_base_model(model, Fit())


def test_layers_that_carry_a_state_along_the_row_are_refused(model: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    kinds = ["conv", "full_attention"]
    config = Lfm2Config(
        vocab_size=len(AutoTokenizer.from_pretrained(model)),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        layer_types=kinds,
    )
    hybrid = tmp_path / "hybrid"
    AutoTokenizer.from_pretrained(model).save_pretrained(hybrid)
    Lfm2ForCausalLM(config).save_pretrained(hybrid)
    with pytest.raises(SourceError, match="layers of kind conv"):
        finish_base_model(hybrid, Fit())


def test_a_broken_tokenizer_is_told_without_the_directory_in_the_making(model: Path) -> None:
    (model / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "BPE", "vocab":')
    with pytest.raises(SourceError, match="transformers cannot load the tokenizer: ") as refused:
        finish_base_model(model, Fit())
    assert str(model) not in str(refused.value)


def change_config(model: Path, **changes: object) -> None:
    content = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(content | changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type":', "config.json:1: not JSON"),
        ("[]", "config.json: expected a JSON object, found list"),
        ('{"model_type": "weird"}', "config.json: transformers cannot read it: .*weird"),
        ('{"model_type": "llama", "hidden_size": "wide"}', "config.json: .*hidden_size"),
    ],
)
def test_a_bad_config_is_told_as_what_it_is(model: Path, text: str, message: str) -> None:
    (model / "config.json").write_text(text)
    with pytest.raises(SourceError, match=f"(?s)^{message}") as refused:
        finish_base_model(model, Fit())
    assert str(model) not in str(refused.value) and "tokenizer" not in str(refused.value)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_quantised_weights_are_refused_by_name(model: Path, method: str) -> None:
    change_config(model, quantization_config={"quant_method": method, "bits": 4})
    with pytest.raises(SourceError, match=rf"quantised weights \({method}\).*dequantise it first"):
        finish_base_model(model, Fit())
    nested = {"text_config": {"quantization_config": {"quant_method": method}}}
    change_config(model, quantization_config=None, **nested)
    with pytest.raises(SourceError, match=rf"quantised weights \({method}\)"):
        finish_base_model(model, Fit())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"architectures": ["Qwen2ForSequenceClassification"]},
            "Qwen2ForSequenceClassification: a reward model .*`hf:DIRECTORY`",
        ),
        ({"architectures": ["LlamaForRewardModel"]}, "LlamaForRewardModel: a reward model"),
        ({"architectures": ["LlamaForTokenClassification"]}, "a classifier of tokens"),
        ({"architectures": ["ModernBertForMaskedLM"]}, "an encoder, .*a base is a causal"),
        ({"architectures": ["XLNetLMHeadModel"]}, "a model of texts in shuffled orders, .*causal"),
        ({"architectures": None, "is_encoder_decoder": True}, "an encoder with a decoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_models_of_other_kinds_are_told_as_what_they_are(
    model: Path, changes: dict[str, object], told: str
) -> None:
    """Also where weights of a base are all there, as in a reward model with tied embeddings."""
    change_config(model, **changes)
    with pytest.raises(SourceError, match=f"^config.json: (.*: )?{told}"):
        finish_base_model(model, Fit())


def test_no_name_of_a_class_and_those_of_wrappers_are_fine(model: Path) -> None:
    for names in (None, ["LlamaModel"], ["LlavaForConditionalGeneration"]):
        change_config(model, architectures=names)
        check_base_model(model)


def test_a_model_that_fails_by_itself_is_refused(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose sizes do not fit each other, which only a pass shows."""

    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("The size of tensor a (4) must match the size of tensor b (8)")

    monkeypatch.setattr(LlamaForCausalLM, "forward", fails)
    with pytest.raises(SourceError, match=r"forward: a LlamaForCausalLM cannot be read .*tensor a"):
        finish_base_model(model, Fit())


def test_a_package_that_a_model_lacks_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacks(*_: object, **__: object) -> None:
        raise ImportError("it needs a package that is not here")

    monkeypatch.setattr(LlamaForCausalLM, "__init__", lacks)
    with pytest.raises(SourceError, match="cannot load what came: it needs a package"):
        finish_base_model(model, Fit())


def test_chatml_needs_its_tokens(model: Path) -> None:
    described = json.loads((model / "tokenizer.json").read_text())
    described["added_tokens"] = [
        token for token in described["added_tokens"] if token["content"] != "<|im_start|>"
    ]
    described["model"]["vocab"] = {
        token.replace("<|im_start|>", "<none>"): i
        for token, i in described["model"]["vocab"].items()
    }
    (model / "tokenizer.json").write_text(json.dumps(described))
    configuration = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(
        json.dumps(configuration | {"bos_token": "<|im_end|>"})
    )
    with pytest.raises(SourceError, match=r"the tokenizer lacks <\|im_start\|>"):
        finish_base_model(model, Fit())
