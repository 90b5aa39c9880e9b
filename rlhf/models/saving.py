"""Causal language models and tokenizers from and to Hugging Face directories.

safetensors only, no remote code.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from rlhf.common.errors import ModelError
from rlhf.core.tokenizers import plain_template, read_tokenizer
from rlhf.engine.adapters import has_adapters
from rlhf.models.attention import cpu_attention, gpu_attention
from rlhf.models.logits import name_tokens

transformers_logging.disable_progress_bar()


def load_causal_lm(directory: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load a model in evaluation mode (there is no dropout in RL).

    Attention is written out on a CPU, where that is the faster one in bf16, and SDPA on a GPU.
    Raises ModelError that names what is missing.
    """
    # transformers would look on the hub, or load other formats
    _check_complete(directory)
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        attention = gpu_attention(config) if torch.cuda.is_available() else cpu_attention(config)
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=attention,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{directory}: not a loadable causal language model: {error}") from error
    name_tokens(model, directory)
    return model.eval()


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer whose pad token is not its end-of-turn token; raises ModelError otherwise."""
    _check_complete(directory)
    tokenizer = read_tokenizer(directory)
    # with one token for both, the end of a response would be masked out as padding
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ModelError(
            f"{directory}: the tokenizer needs a pad token "
            f"that is not its eos token ({tokenizer.eos_token!r})"
        )
    return tokenizer


def load_answering_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a model that only answers: it needs no pad, and without a template gets the plain one."""
    _check_complete(directory)
    tokenizer = read_tokenizer(directory)
    if tokenizer.chat_template is None:
        tokenizer.chat_template = plain_template(tokenizer)
    return tokenizer


def save_causal_lm(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path
) -> None:
    """Write model and tokenizer as one Hugging Face directory; adapters are merged into the weights."""
    without_adapters(model).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def without_adapters(model: PreTrainedModel) -> PreTrainedModel:
    """The model itself, or with adapters one that has them merged and shares all other weights with it."""
    if not has_adapters(model):
        return model
    # peft takes a second to import
    from rlhf.models.lora import merged

    return merged(model)


def _check_complete(directory: Path) -> None:
    if not (directory / "config.json").is_file():
        raise ModelError(
            f"{directory}: no model here (config.json is missing); "
            "those of the stages are written by `dvc repro`"
        )
    if not any(directory.glob("*.safetensors")):
        raise ModelError(f"{directory}: no *.safetensors weights; other formats are not loaded")
