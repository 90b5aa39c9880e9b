"""Whether the settings fit the base model: their texts its window, and `trainable_layers` its layers."""

from pathlib import Path

from transformers import AutoConfig, PreTrainedConfig

from rlhf.common.errors import ModelError
from rlhf.core.reach import check_window
from rlhf.settings import Settings

# The sections whose models have the base's layers.
_TRAINED = ("sft", "reward", "gold", "dpo", "process", "ppo")


def check_layers(settings: Settings, directory: Path) -> None:
    """Refuse `trainable_layers` that are more than the model in `directory` has; raises ModelError."""
    there = getattr(_config(directory).get_text_config(), "num_hidden_layers", None)
    # some families do not say
    if there is None:
        return
    sections = {name: getattr(settings, name) for name in _TRAINED}
    asked = {name: one.trainable_layers for name, one in sections.items() if one is not None}
    faults = [
        f"{name}.trainable_layers: {layers}"
        for name, layers in asked.items()
        if (layers or 0) > there
    ]
    if faults:
        raise ModelError(f"{', '.join(faults)}: the model has {there} layers (null trains all)")


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
    check_window(_config(directory), lengths)


def _config(directory: Path) -> PreTrainedConfig:
    config: PreTrainedConfig = AutoConfig.from_pretrained(
        directory, local_files_only=True, trust_remote_code=False
    )
    return config
