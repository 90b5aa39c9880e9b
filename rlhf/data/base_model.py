"""Making a base model that came from anywhere fit the pipeline: chat template, end-of-turn and pad tokens."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from rlhf.common.errors import ModelError, SourceError
from rlhf.common.files import read_json, write_json
from rlhf.core.tokenizers import read_tokenizer

# No system prompt is put in: what the model was told is what the dialogue says.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_ATTENTION = {"full_attention", "sliding_attention"}  # these obey the mask of pairs
PADS = (
    "<|endoftext|>",
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<unk>",
)  # in order of preference


def finish_base_model(directory: Path, chat_template: str) -> None:
    """Set template, end of turn and pad in place, and try the result; raises SourceError that names what is amiss.

    chat_template: "chatml" or "own" (the model's)
    """
    for needed in ("config.json", "tokenizer_config.json"):
        if not (directory / needed).is_file():
            raise SourceError(f"no {needed}: not a Hugging Face model directory")
    if not any(directory.glob("*.safetensors")):
        raise SourceError("no *.safetensors weights; other formats are not accepted")
    try:
        tokenizer = read_tokenizer(directory)
    except ModelError as error:  # told without the directory, which is one in the making
        raise SourceError(f"transformers cannot load the tokenizer: {error.__cause__}") from error
    if chat_template == "chatml":
        _set_chatml(tokenizer)
    elif not tokenizer.chat_template:
        raise SourceError(
            "model.chat_template: own: this model has no chat template; chatml sets one"
        )
    _set_pad(tokenizer)
    tokenizer.save_pretrained(directory)
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
        if path.is_file():
            write_json(path, {**read_json(path), **tokens})
    _check_loads(directory, len(tokenizer))


def _set_chatml(tokenizer: PreTrainedTokenizerBase) -> None:
    for token in ("<|im_start|>", "<|im_end|>"):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise SourceError(
                f"model.chat_template: chatml: the tokenizer lacks {token}; `own` keeps the model's template"
            )
    tokenizer.chat_template = CHATML
    tokenizer.eos_token = "<|im_end|>"  # base models end documents with another one


def _set_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """Padding is masked out of every loss, so it must not be the end of turn."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    known = tokenizer.get_vocab()
    for token in PADS:
        if token in known and token != tokenizer.eos_token:
            tokenizer.pad_token = token
            return
    raise SourceError(
        f"the tokenizer has no token to pad with besides {tokenizer.eos_token!r}; looked for {', '.join(PADS)}"
    )


def _check_loads(directory: Path, vocabulary: int) -> None:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype="auto",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        model, told = loaded
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SourceError(f"transformers cannot load what came: {error}") from error
    if told["missing_keys"]:
        raise SourceError(
            f"weights are missing: {', '.join(sorted(told['missing_keys'])[:3])}, ..."
        )
    if others := sorted({*(getattr(model.config, "layer_types", None) or ())} - _ATTENTION):
        raise SourceError(
            f"layers of kind {', '.join(others)}: they carry what they read from a pair's answer to the other"
        )
    if model.get_input_embeddings().weight.shape[0] < vocabulary:
        raise SourceError(f"the tokenizer has {vocabulary} tokens, the model fewer embeddings")
    with torch.inference_mode():
        ids = torch.zeros((1, 2), dtype=torch.int64)
        logits = model(ids).logits
        plain = model.get_output_embeddings()(model.base_model(input_ids=ids).last_hidden_state)
    if not torch.isfinite(logits).all():
        raise SourceError("the model gives logits that are not finite")
    if not torch.allclose(logits, plain, rtol=1e-2, atol=1e-2):  # what sampler and losses compute
        raise SourceError("the model scales or caps its logits, which is not supported here")
