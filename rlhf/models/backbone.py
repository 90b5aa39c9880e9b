"""What is read off a language model's output: hidden states, log-probabilities and entropies of chosen tokens."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.batches.padding import TokenBatch
from rlhf.batches.pairs import PairBatch
from rlhf.common.errors import ModelError
from rlhf.models.attention import adds_its_mask


def hidden_states(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Last hidden states, [B, T, H]; position ids count real tokens, so padding changes nothing."""
    position_ids = (batch.attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    return model.base_model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask.long(),
        position_ids=position_ids,
        use_cache=False,
    ).last_hidden_state


def pair_hidden_states(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    """Last hidden states of pairs, [B, T, H]: at each place the same as of prompt and answer in a row of their own.

    Raises ModelError for a model whose attention reaches back less far than the answers are long: the mask of pairs
    takes the place of its own.
    """
    reach, longest = (
        getattr(model.config, "sliding_window", None),
        int(batch.position_ids.max()) + 1,
    )
    if reach is not None and longest > reach:
        raise ModelError(
            f"{longest} tokens of prompt and answer are more than the model's sliding window of {reach}"
        )
    mask = batch.visible
    if adds_its_mask(model.config._attn_implementation):
        mask = torch.zeros(mask.shape, device=mask.device).masked_fill(
            ~mask, torch.finfo(torch.float32).min
        )
    return model.base_model(
        input_ids=batch.tokens.input_ids,
        attention_mask=mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state


def target_logits(
    model: PreTrainedModel, hidden: Tensor, batch: TokenBatch, temperature: float = 1.0
) -> Tensor:
    """Logits that predict each target token, [N, V] float32, N = number of True in `batch.target_mask`, row by row.

    Only these rows go through the unembedding: with a large vocabulary it is most of the work. Divided by
    `temperature`, so that log-probabilities belong to the distribution that was sampled.
    """
    predicting = hidden[:, :-1][batch.target_mask[:, 1:]]
    return model.get_output_embeddings()(predicting).float() / temperature


def target_tokens(batch: TokenBatch) -> Tensor:
    """The target tokens themselves, [N] int64, in the order of `target_logits`."""
    return batch.input_ids[batch.target_mask]


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p of each token, [N], from logits [N, V]."""
    return logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(dim=1)


def entropy(logits: Tensor) -> Tensor:
    """Entropy of each distribution in nats, [N], from logits [N, V]."""
    logprobs = logits.log_softmax(dim=1)
    return -(logprobs.exp() * logprobs).sum(dim=1)


def spread(values: Tensor, mask: Tensor) -> Tensor:
    """Put flat values [N] back to the True places of `mask` [B, T]; 0 elsewhere. Keeps gradients."""
    return torch.zeros(mask.shape, dtype=values.dtype, device=values.device).masked_scatter(
        mask, values
    )
