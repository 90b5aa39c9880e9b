"""One tiny random model of each family, of the words of `tiny`, and what becomes of it."""

import json
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as t
from tiny import EOS, PAD, VOCABULARY, make_workspace, tiny_settings, tiny_tokenizer
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from rlhf.common.errors import ModelError, SourceError
from rlhf.common.files import read_json
from rlhf.core.reach import PAIR_ROWS, window
from rlhf.data.base_model import finish_base_model
from rlhf.data.templates import Fit
from rlhf.models.saving import load_causal_lm
from rlhf.models.trainable import train_only_top
from rlhf.training import loop, reward, sft
from rlhf.workspace import Workspace

# shorter than the pairs of the tables are
WINDOW = 6
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
# as most families call these, and as those call them that go back to GPT-2
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "initializer_range": 0.2}
OLD = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.2,
}
SLIDING = {"sliding_window": WINDOW}
GEMMA = {"head_dim": 8}
EXPERTS = {"num_local_experts": 4}


def config(
    kind: type[PreTrainedConfig], *parts: Mapping[str, Any], **more: Any
) -> PreTrainedConfig:
    merged: dict[str, Any] = {}
    for part in (TOKENS, *parts, more):
        merged |= part
    return kind(**merged)


FAMILIES: dict[str, Callable[[], PreTrainedConfig]] = {
    "llama": lambda: config(t.LlamaConfig, SIZES),
    "mistral": lambda: config(t.MistralConfig, SIZES, sliding_window=None),
    "mistral, sliding window": lambda: config(t.MistralConfig, SIZES, SLIDING),
    # more embeddings than the tokenizer has tokens
    "qwen2": lambda: config(t.Qwen2Config, SIZES, vocab_size=80),
    "qwen3": lambda: config(t.Qwen3Config, SIZES, GEMMA),
    "gemma": lambda: config(t.GemmaConfig, SIZES, GEMMA),
    "gemma2": lambda: config(t.Gemma2Config, SIZES, GEMMA, SLIDING, final_logit_softcapping=3.0),
    "gemma3 (text)": lambda: config(t.Gemma3TextConfig, SIZES, GEMMA, SLIDING),
    "phi": lambda: config(t.PhiConfig, SIZES),
    "phi3": lambda: config(t.Phi3Config, SIZES),
    "gpt2": lambda: config(t.GPT2Config, GPT),
    "gptj": lambda: config(t.GPTJConfig, GPT, rotary_dim=4),
    "gpt_neo, local window": lambda: config(
        t.GPTNeoConfig,
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 256},
        attention_types=[[["global", "local"], 1]],
        window_size=WINDOW,
        initializer_range=0.2,
    ),
    "gpt_neox (Pythia)": lambda: config(t.GPTNeoXConfig, SIZES),
    "opt": lambda: config(
        t.OPTConfig, OLD, ffn_dim=64, word_embed_proj_dim=32, max_position_embeddings=256
    ),
    "opt, narrower embeddings (350M)": lambda: config(
        t.OPTConfig,
        OLD,
        ffn_dim=64,
        word_embed_proj_dim=16,
        max_position_embeddings=256,
        do_layer_norm_before=False,
    ),
    "falcon": lambda: config(t.FalconConfig, OLD, alibi=False),
    "falcon, ALiBi": lambda: config(t.FalconConfig, OLD, alibi=True),
    "bloom, ALiBi": lambda: config(t.BloomConfig, hidden_size=32, n_layer=2, n_head=4),
    "mpt, ALiBi": lambda: config(t.MptConfig, d_model=32, n_layers=2, n_heads=4),
    "olmo2": lambda: config(t.Olmo2Config, SIZES),
    "mixtral (experts)": lambda: config(t.MixtralConfig, SIZES, EXPERTS),
    "gpt_oss (experts)": lambda: config(t.GptOssConfig, SIZES, GEMMA, EXPERTS, SLIDING),
    "cohere": lambda: config(t.CohereConfig, SIZES),
    "granite": lambda: config(t.GraniteConfig, SIZES, logits_scaling=2.0, embedding_multiplier=3.0),
    "lfm2 (convolutions)": lambda: config(
        t.Lfm2Config, SIZES, layer_types=["conv", "full_attention"]
    ),
    "mamba (state space)": lambda: config(t.MambaConfig, hidden_size=32, num_hidden_layers=2),
    "llama4": lambda: config(
        t.Llama4TextConfig, SIZES, GEMMA, EXPERTS, intermediate_size_mlp=64, no_rope_layers=[1, 0]
    ),
}


@dataclass(frozen=True)
class Verdict:
    """What `fetch` says of a family. refusal: its reason; pairs, layers: how it runs."""

    refusal: str = ""
    pairs: str = ""
    layers: str = ""

    def row(self, name: str) -> str:
        """A line of the table in rlhf/data/bring_your_own.md."""
        if self.refusal:
            return f"| {name} | refused: {self.refusal} | | |"
        return f"| {name} | runs | {self.pairs} | {self.layers} |"


HEADER = "| family | | answers of a pair in | `trainable_layers` |\n|---|---|---|---|\n"


def with_table(page: str, verdicts: Mapping[str, Verdict]) -> str:
    """The page with what was found of these families; each of FAMILIES has one line, in their order.

    Lines of families that were not tried stay.
    """
    before, header, behind = page.partition(HEADER)
    assert header, f"the page has no table with the header {HEADER}"
    (old,) = re.findall(r"\A(?:\|.*\n)*", behind)
    lines = {line.removeprefix("| ").partition(" | ")[0]: line for line in old.splitlines()}
    lines |= {name: verdict.row(name) for name, verdict in verdicts.items()}
    table = "".join(f"{lines[name]}\n" for name in FAMILIES if name in lines)
    return f"{before}{header}{table}{behind.removeprefix(old)}"


def through_the_stages(name: str, root: Path) -> Verdict:
    """What `fetch` says of a family; one that it takes goes through a step of each stage."""
    workspace = make_workspace(root)
    shutil.rmtree(workspace.model("base"))
    verdict = fetched(name, workspace.model("base"))
    if not verdict.refusal:
        one_step_each(workspace)
        check_numbers(workspace)
    return verdict


def check_numbers(workspace: Workspace) -> None:
    for stage, key in (("sft", "validation_loss"), ("reward", "accuracy"), ("ppo", "kl_last")):
        value = json.loads(workspace.metrics(stage).read_text())[key]
        assert math.isfinite(value), f"{stage}: {key} {value}"


def random_model(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(FAMILIES[name]()).eval()


def fetched(name: str, directory: Path) -> Verdict:
    """Write the model as a user has it, and let the last step of `fetch` look at it."""
    random_model(name).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    try:
        finish_base_model(directory, Fit("plain"))
    except SourceError as error:
        return Verdict(refusal=str(error).split(":")[0])
    model = load_causal_lm(directory)
    pairs = "one row"
    if window(model.config) is not None:
        pairs = "one row within the window, else two"
    if not read_json(directory / "config.json").get(PAIR_ROWS, True):
        pairs = "two rows"
    try:
        train_only_top(model, 1)
    except ModelError as error:
        return Verdict(pairs=pairs, layers=str(error))
    return Verdict(pairs=pairs, layers="yes")


def one_step_each(workspace: Workspace) -> None:
    """SFT, reward model and PPO, one step each, in the top layer alone."""
    steps = {
        "sft.batch_tokens": 4096,
        "reward.batch_tokens": 4096,
        "ppo.iterations": 1,
        "ppo.rollouts": 4,
        "ppo.max_response_tokens": 6,
    }
    layers = {f"{stage}.trainable_layers": 1 for stage in ("sft", "reward", "ppo")}
    settings = tiny_settings({**steps, **layers})
    sft.train(settings, workspace)
    reward.train(settings, workspace)
    loop.train(settings, workspace)
