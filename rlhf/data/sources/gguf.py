"""From a GGUF file to a plain Hugging Face directory."""

from pathlib import Path

import torch
from gguf import GGUFReader
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from rlhf.common.errors import SourceError

# Part of the cache key: raise it when `convert` changes what it writes.
CONVERSION = 1
PAD = "<|endoftext|>"


def convert(file: Path, directory: Path) -> None:
    """Write the model, dequantised to fp32, and its tokenizer to `directory`; raises SourceError.

    Two faults of such files are corrected. Their pad token is eos, and masking the padding would
    take the end of turn out of every loss. And the pre-tokenizer of the SmolLM family has lost its
    splitting of numbers into digits.
    """
    try:
        # Without this configuration the model is kept as "quantised", which cannot be saved.
        configuration = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, quantization_config=configuration
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except (OSError, ValueError, KeyError) as error:
        raise SourceError(
            f"{file.name}: not a GGUF language model that transformers can read: {error}"
        ) from error

    # an unknown token has the id None
    if tokenizer.convert_tokens_to_ids(PAD) not in (None, tokenizer.eos_token_id):
        tokenizer.pad_token = PAD
        model.config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.pad_token_id = tokenizer.pad_token_id

    if _pre_tokenizer_name(file) == "smollm":
        digits = Digits(individual_digits=True)
        words = ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence([digits, words])

    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def _pre_tokenizer_name(file: Path) -> str:
    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    return "" if field is None else str(field.contents())
