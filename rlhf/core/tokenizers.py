"""Reading a tokenizer from a Hugging Face directory."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rlhf.common.errors import ModelError


def read_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """Read a tokenizer as it is, without code of its own; raises ModelError."""
    try:
        return AutoTokenizer.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    # of a broken file the Rust library raises nothing more special
    except Exception as error:
        raise ModelError(f"{directory}: transformers cannot load the tokenizer: {error}") from error
