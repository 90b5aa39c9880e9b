"""Whether the texts of the settings have room in the base model's window."""

from pathlib import Path

from transformers import AutoConfig

from rlhf.core.reach import check_window
from rlhf.settings import Settings


def check_lengths(settings: Settings, directory: Path) -> None:
    """Refuse settings whose texts are longer than the window of the model in `directory`.

    Behind its window GPT-2 has no position, and a rotary model is outside of what it learnt. Raises
    ModelError that names the settings.
    """
    data = settings.data
    prompt = data.max_prompt_tokens
    lengths = {
        "data.max_prompt_tokens + data.max_response_tokens": prompt + data.max_response_tokens,
        "data.pretrain_tokens": data.pretrain_tokens,
        "data.max_prompt_tokens + evaluate.generation.max_new_tokens": prompt
        + settings.evaluate.generation.max_new_tokens,
    }
    if settings.ppo.max_response_tokens is not None:
        sampled = prompt + settings.ppo.max_response_tokens
        lengths["data.max_prompt_tokens + ppo.max_response_tokens"] = sampled
    config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
    check_window(config, lengths)
