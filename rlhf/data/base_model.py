"""Fitting a base model to the pipeline: chat template, end-of-turn and pad tokens."""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

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
# Layers of these types obey the attention mask that keeps the answers of a pair apart.
_MASKED_LAYER_TYPES = {"full_attention", "sliding_attention"}
# Tokens to pad with, in order of preference.
PADS = (
    "<|endoftext|>",
    "<pad>",
    "<|pad|>",
    "[PAD]",
    "<|finetune_right_pad_id|>",
    "<unk>",
)


def finish_base_model(directory: Path, chat_template: str) -> None:
    """Set template, end of turn and pad in place, and try the result.

    chat_template: "chatml" or "own" (the model's)

    Raises SourceError that names what is wrong.
    """
    _check_complete(directory)
    tokenizer = _tokenizer(directory)

    if chat_template == "chatml":
        _set_chatml(tokenizer)
    elif not tokenizer.chat_template:
        raise SourceError(
            "model.chat_template: own: this model has no chat template; chatml sets one"
        )
    _set_pad(tokenizer)
    tokenizer.save_pretrained(directory)

    # a model's files name these tokens too, and generation reads them there
    tokens = {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    for name in ("config.json", "generation_config.json"):
        path = directory / name
        if path.is_file():
            write_json(path, {**read_json(path), **tokens})

    model = _load_model(directory)
    _check_layers(model)
    _check_logits(model, vocabulary=len(tokenizer))


def _check_complete(directory: Path) -> None:
    for name in ("config.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise SourceError(f"no {name}: not a Hugging Face model directory")
    if not any(directory.glob("*.safetensors")):
        raise SourceError("no *.safetensors weights; other formats are not accepted")


def _tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    try:
        return read_tokenizer(directory)
    except ModelError as error:
        # without the directory, which is a temporary one while the stage runs
        raise SourceError(f"transformers cannot load the tokenizer: {error.__cause__}") from error


def _set_chatml(tokenizer: PreTrainedTokenizerBase) -> None:
    for token in ("<|im_start|>", "<|im_end|>"):
        if len(tokenizer.encode(token, add_special_tokens=False)) != 1:
            raise SourceError(
                f"model.chat_template: chatml: the tokenizer lacks {token}; "
                "`own` keeps the model's template"
            )
    tokenizer.chat_template = CHATML
    # base models end documents with another token
    tokenizer.eos_token = "<|im_end|>"


def _set_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    """Padding is masked out of every loss, so it must not be the end of turn."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return

    vocabulary = tokenizer.get_vocab()
    for token in PADS:
        if token in vocabulary and token != tokenizer.eos_token:
            tokenizer.pad_token = token
            return
    raise SourceError(
        f"the tokenizer has no token to pad with besides {tokenizer.eos_token!r}; "
        f"looked for {', '.join(PADS)}"
    )


# -- trying the model --


def _load_model(directory: Path) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype="auto",
            # neither pickles nor code of the model's own
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise SourceError(f"transformers cannot load what came: {error}") from error

    model, loading_info = loaded
    missing = sorted(loading_info["missing_keys"])
    if missing:
        raise SourceError(f"weights are missing: {', '.join(missing[:3])}, ...")
    return model


def _check_layers(model: PreTrainedModel) -> None:
    # most models have one type of layer and do not name it
    layer_types = getattr(model.config, "layer_types", None) or ()
    others = sorted(set(layer_types) - _MASKED_LAYER_TYPES)
    if others:
        raise SourceError(
            f"layers of kind {', '.join(others)}: "
            "they carry what they read from a pair's answer to the other"
        )


def _check_logits(model: PreTrainedModel, vocabulary: int) -> None:
    """Refuse logits that sampler and losses, which compute them from hidden states, would not get.

    vocabulary: number of the tokenizer's tokens
    """
    embeddings: Any = model.get_input_embeddings()
    if embeddings.weight.shape[0] < vocabulary:
        raise SourceError(f"the tokenizer has {vocabulary} tokens, the model fewer embeddings")

    with torch.inference_mode():
        ids = torch.zeros((1, 2), dtype=torch.int64)
        logits = model(ids).logits
        # as the sampler and the losses compute logits
        hidden = model.base_model(input_ids=ids).last_hidden_state
        head: Any = model.get_output_embeddings()
        from_hidden = head(hidden)
    if not torch.isfinite(logits).all():
        raise SourceError("the model gives logits that are not finite")
    if not torch.allclose(logits, from_hidden, rtol=1e-2, atol=1e-2):
        raise SourceError("the model scales or caps its logits, which is not supported here")
