"""Attention of grouped queries on a CPU, without a copy of keys and values for each query head."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AttentionInterface,
    AttentionMaskInterface,
    PreTrainedConfig,
)
from transformers.masking_utils import eager_mask

from rlhf.batches.padding import Packing

GROUPED = "grouped"
# Whose own eager attention is this very product, softmax and product: no cap, no sinks.
_PLAIN = ("llama", "mistral", "qwen2", "qwen3")


def cpu_attention(config: PreTrainedConfig) -> str:
    """The fastest on a CPU: grouped where that equals the model's own attention, else eager."""
    return GROUPED if config.model_type in _PLAIN else "eager"


def gpu_attention(config: PreTrainedConfig) -> str:
    """SDPA, where the family has it."""
    family = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    return "sdpa" if getattr(family, "_supports_sdpa", True) else "eager"


def reads_packed_rows(implementation: str) -> bool:
    """Whether an implementation can read rows that lie end to end, without their padding."""
    return implementation == GROUPED


def adds_its_mask(implementation: str) -> bool:
    """Whether an implementation adds its mask to the scores, rather than asking it what is visible."""
    return implementation in (GROUPED, "eager")


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    packing: Packing | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Scaled dot-product attention with a mask that is added to the scores.

    query [B, H, Q, D], key and value [B, G, T, D], mask [B or 1, 1, Q, T].

    The queries of the H/G heads that share a key are rows of one product. Gives [B, Q, H, D].
    With `packing` query, key, value and what it gives are of packed rows, [1, ., N, D]; the mask is not.
    """
    if packing is not None:
        query, key, value = (_padded(states, packing) for states in (query, key, value))
    batch, heads, length, width = query.shape
    groups, total = key.shape[1], key.shape[2]
    rows = query.reshape(batch, groups, -1, width)
    scores = torch.matmul(rows, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores.view(batch, groups, -1, length, total) + attention_mask[:, :, None]
    scores = scores.view(batch, groups, -1, total)
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    output = torch.matmul(weights, value).view(batch, heads, length, width).transpose(1, 2)
    if packing is not None:
        output = packing.packed(output)
    return output.contiguous(), None


def _padded(states: Tensor, packing: Packing) -> Tensor:
    """[1, H, N, D] of packed rows as [B, H, T, D]."""
    return packing.padded(states.transpose(1, 2)).transpose(1, 2)


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, eager_mask)
