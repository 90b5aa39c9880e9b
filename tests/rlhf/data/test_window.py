"""Settings that ask for more than the base model has are refused by key, before anything is trained."""

from pathlib import Path

import pytest
from tiny import tiny_settings
from transformers import Gemma3Config, GPT2Config, GPTNeoXConfig, PreTrainedConfig

from rlhf.common.errors import ModelError
from rlhf.data.window import check_layers


@pytest.mark.parametrize(
    "config",
    [
        GPTNeoXConfig(num_hidden_layers=12),
        GPT2Config(n_layer=12),
        # the layers are those of the part that reads text
        Gemma3Config(text_config={"num_hidden_layers": 12}),
    ],
)
def test_more_trainable_layers_than_the_model_has_are_told_by_key(
    config: PreTrainedConfig, tmp_path: Path
) -> None:
    config.save_pretrained(tmp_path)
    changes = {
        "sft.trainable_layers": 16,
        "reward.trainable_layers": 12,
        "ppo.trainable_layers": 13,
    }
    told = r"^sft\.trainable_layers: 16, ppo\.trainable_layers: 13: the model has 12 layers"
    with pytest.raises(ModelError, match=told):
        check_layers(tiny_settings(changes), tmp_path)
    changes |= {"sft.trainable_layers": None, "ppo.trainable_layers": 12}
    check_layers(tiny_settings(changes), tmp_path)
    # a stage that is off trains nothing
    check_layers(tiny_settings({**changes, "dpo": None}), tmp_path)
