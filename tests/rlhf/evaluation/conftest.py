import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.common.yaml import parse_yaml
from rlhf.models.heads import new_scalar_model, save_scalar_model
from rlhf.models.saving import save_causal_lm
from rlhf.settings import preset_text, settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

WORDS = [f"w{number}" for number in range(61)]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<|im_end|>": 1, "<unk>": 2} | {
        word: 3 + n for n, word in enumerate(WORDS)
    }
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<|im_end|>", unk_token="<unk>"
    )


def tiny_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=128, pad_token_id=0, eos_token_id=1, bos_token_id=None,
            initializer_range=0.3,
        )
    )  # fmt: skip


@pytest.fixture(scope="session")
def settings() -> Settings:
    """The laptop preset, with short responses, plain fp32 and one thread (tiny models gain nothing from more)."""
    content = parse_yaml(preset_text("laptop"), "laptop")
    content["engine"] |= {"precision": "fp32", "threads": 1}
    content["evaluate"]["generation"] |= {"max_new_tokens": 12, "batch_size": 4}
    content["evaluate"] |= {"judges": ["gold"], "tax": None}
    return settings_from(content)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with random base, sft, policy and gold models and ten held-out prompts."""
    workspace = Workspace(tmp_path_factory.mktemp("workspace"))
    tokenizer = tiny_tokenizer()
    for seed, name in enumerate(("base", "sft", "policy")):
        save_causal_lm(tiny_model(seed), tokenizer, workspace.model(name))
    save_scalar_model(
        new_scalar_model(workspace.model("sft"), 7, "gold"),
        tokenizer,
        workspace.model("gold"),
        "gold",
        1.0,
    )
    workspace.prepared.mkdir(parents=True)
    write_prompts(workspace.prepared / "prompts.parquet")
    return workspace.root


def write_prompts(path: Path) -> None:
    rows = []
    for number in range(12):
        words = WORDS[number : number + 2 + number % 5]
        rows.append(
            {
                "id": f"p{number}",
                "kind": "helpful" if number % 2 else "harmless",
                "split": "train" if number >= 10 else "test",
                "source": "made",
                "opening": str(number),
                "messages": json.dumps([{"role": "user", "content": " ".join(words)}]),
                "prompt_ids": [3 + WORDS.index(word) for word in words],
            }
        )
    pd.DataFrame(rows).to_parquet(path)
