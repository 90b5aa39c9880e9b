"""Random models of a real model's shape, and a workspace around them: what the benchmarks run on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from rlhf.batches.tables import write_table
from rlhf.common.files import write_text
from rlhf.models.heads import new_scalar_model, save_scalar_model
from rlhf.models.saving import save_causal_lm
from rlhf.settings import preset_text
from rlhf.settings.edit import edited
from rlhf.workspace import Workspace

# SmolLM2-135M, the model of preset laptop, but for its 30 blocks
SHAPE: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
BLOCKS = 30
# the first ids are these, and no prompt has them
PAD, EOS, START = 0, 1, 2
_WORDS_FROM = 3


def random_model(blocks: int, seed: int, shape: Mapping[str, Any] = SHAPE) -> LlamaForCausalLM:
    """A model with random weights."""
    torch.manual_seed(seed)
    ids = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": START}
    return LlamaForCausalLM(LlamaConfig(num_hidden_layers=blocks, **shape, **ids)).eval()


def word_tokenizer(vocabulary: int = SHAPE["vocab_size"]) -> PreTrainedTokenizerFast:
    """A word an id."""
    words = ["<pad>", "<|im_end|>", "<|im_start|>"]
    words += [f"w{number}" for number in range(len(words), vocabulary)]
    backend = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<pad>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<|im_end|>",
        bos_token="<|im_start|>",
        padding_side="left",
    )


def random_prompts(
    count: int,
    shortest: int,
    longest: int,
    vocabulary: int = SHAPE["vocab_size"],
    seed: int = 3,
) -> list[list[int]]:
    """Random words, of between so many tokens, both included."""
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=random).tolist()
    return [
        torch.randint(_WORDS_FROM, vocabulary, (length,), generator=random).tolist()
        for length in lengths
    ]


@torch.no_grad()
def let_it_end(
    model: LlamaForCausalLM, prompts: Sequence[list[int]], probability: float, temperature: float
) -> None:
    """Change a model with tied embeddings so that it draws EOS with about that probability at any token.

    All embeddings get a common part, which no softmax sees. It gives the last states a common
    direction. The embedding of EOS lies in it, as long as the probability wants.
    """
    embeddings = model.get_input_embeddings().weight
    common = torch.randn(embeddings.shape[1], generator=torch.Generator().manual_seed(5))
    embeddings += 5.0 * common / common.norm()
    ids = torch.tensor([prompt[: min(map(len, prompts))] for prompt in prompts[:8]])
    states = model.base_model(ids).last_hidden_state.flatten(0, 1)
    direction = states.mean(dim=0) / states.mean(dim=0).norm()
    others = (states @ embeddings.T / temperature).logsumexp(dim=1)
    low, high = 0.0, 1e4
    for _ in range(60):
        length = (low + high) / 2
        drawn = (length * (states @ direction) / temperature - others).sigmoid().mean()
        low, high = (length, high) if float(drawn) < probability else (low, length)
    embeddings[EOS] = low * direction


def write_workspace(
    root: Path,
    model: LlamaForCausalLM,
    prompts: Sequence[list[int]],
    changes: Mapping[str, Any],
) -> Workspace:
    """All that a policy run reads: preset laptop with changes, models `sft` and `reward`, and prompts.

    The reward model has the backbone of the other and a random head.
    """
    workspace, tokenizer = Workspace(root), word_tokenizer(model.config.vocab_size)
    save_causal_lm(model, tokenizer, workspace.model("sft"))
    reward = new_scalar_model(workspace.model("sft"), 2, "reward")
    save_scalar_model(reward, tokenizer, workspace.model("reward"), "reward", score_std=1.0)
    workspace.prepared.mkdir(parents=True)
    write_table(
        workspace.prepared, "prompts", [_row(ids, number) for number, ids in enumerate(prompts)]
    )
    write_text(workspace.params, edited(preset_text("laptop"), dict(changes), "preset laptop"))
    return workspace


def write_rows(
    workspace: Workspace,
    splits: Sequence[str],
    dialogues: Sequence[tuple[list[int], list[int]]],
    pairs: Sequence[tuple[list[int], list[int], list[int]]],
) -> None:
    """The tables `sft` and `preferences`: a row a split, of prompts with an answer, or with two."""
    workspace.prepared.mkdir(parents=True, exist_ok=True)
    made = {"id": "", "kind": "random", "source": "random", "opening": "", "messages": "[]"}
    write_table(
        workspace.prepared,
        "sft",
        [
            made
            | {"split": split, "input_ids": prompt + answer}
            | {"loss_mask": [False] * len(prompt) + [True] * len(answer)}
            for split, (prompt, answer) in zip(splits, dialogues, strict=True)
        ],
    )
    write_table(
        workspace.prepared,
        "preferences",
        [
            made
            | {"split": split, "unseen_opening": True, "chosen": "", "rejected": ""}
            | {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
            for split, (prompt, chosen, rejected) in zip(splits, pairs, strict=True)
        ],
    )


def _row(prompt: list[int], number: int) -> dict[str, Any]:
    return {
        "id": str(number),
        "kind": "random",
        # some for the fixed prompts that are looked at
        "split": ("validation", "test")[number] if number < 2 else "train",
        "source": "random",
        "opening": str(number),
        "messages": "[]",
        "prompt_ids": prompt,
    }
