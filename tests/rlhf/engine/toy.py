"""A tiny Llama with tied embeddings, and token batches to train it on."""

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf.batches.padding import TokenBatch, pad
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs

WIDTH = 9


def toy_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


def toy_batches(count: int, rows: int, seed: int = 1) -> list[TokenBatch]:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 64, (count, rows, WIDTH), generator=generator).tolist()
    return [pad(part, [[True] * WIDTH] * rows, pad_id=0) for part in ids]


def toy_loss(model: LlamaForCausalLM, batch: TokenBatch, count: int) -> Tensor:
    """Negative log-likelihood summed over the batch's targets and divided by the global count."""
    logits = target_logits(model, hidden_states(model, batch), batch)
    return -token_logprobs(logits, target_tokens(batch)).sum() / count


def copies(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    """Whether both hold the same weights, to the bit."""
    if left.keys() != right.keys():
        return False
    return all(torch.equal(left[name], right[name]) for name in left)
