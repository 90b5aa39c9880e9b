"""The transformer: the only file that calls one, and what is read off its output.

Position ids count real tokens and no token sees padding, on either side. Only the rows that
predict a target go through the unembedding: with a large vocabulary it is most of the work.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedConfig, PreTrainedModel

from rlhf.batches.padding import Packing, TokenBatch
from rlhf.batches.pairs import PairBatch
from rlhf.core.reach import is_one_row, window
from rlhf.models.attention import adds_its_mask, reads_packed_rows
from rlhf.models.blocks import Stack, blocks_of, find_stack
from rlhf.models.logits import finish_logits


def position_ids(attention_mask: Tensor) -> Tensor:
    """Position of each token among the real ones of its row, [B, T] int64; padding in front gets 0."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


# -- a forward pass --------------------------------------------------------------------------------


def hidden_states(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """Last hidden states, [B, T, H].

    Where the batch carries the states of a trunk, the model's blocks above it go on from them.
    """
    if batch.trunk_states is None:
        return _forward(model.config, model.base_model, batch, {"input_ids": batch.input_ids})
    upper = _with_blocks(model, blocks_of(model, _stack(model))[batch.trunk_blocks :])
    return _forward(model.config, upper, batch, {"inputs_embeds": batch.trunk_states})


def pair_hidden_states(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    """Last hidden states of pairs, [B, T, H]: at each place those of prompt and answer in a row of their own.

    One row a pair, the prompt computed once, where the model's attention allows for it: the mask of
    pairs takes the place of its own. Else each answer is read in a row of its own.
    """
    if not is_one_row(model.config, batch.longest):
        return _states_of_own_rows(model, batch)
    tokens, positions, mask = batch.tokens, batch.position_ids, batch.visible
    inputs = {"input_ids": tokens.input_ids}
    if _packs(model.config, tokens):
        return _packed_forward(model.base_model, tokens, inputs, positions, mask)
    if adds_its_mask(model.config._attn_implementation):
        mask = _added(mask)
    return _padded_forward(model.base_model, inputs, positions, mask)


def _states_of_own_rows(model: PreTrainedModel, batch: PairBatch) -> Tensor:
    states = hidden_states(model, batch.own_rows())
    rows, places = batch.places_in_own_rows()
    return states[rows, places]


def next_token_states(
    model: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor, cache: Cache
) -> Tensor:
    """Hidden state at the last of some new tokens, [B, H]; their keys and values go into `cache`.

    input_ids: [B, Q] the new tokens; attention_mask: [B, T] bool over all tokens so far, these
    included, left-padded
    """
    count = input_ids.shape[1]
    output = model.base_model(
        input_ids=input_ids,
        attention_mask=attention_mask.long(),
        position_ids=position_ids(attention_mask)[:, -count:],
        past_key_values=cache,
        use_cache=True,
    )
    states: Tensor = output.last_hidden_state[:, -1]
    return states


def _forward(
    config: PreTrainedConfig, backbone: nn.Module, batch: TokenBatch, inputs: dict[str, Tensor]
) -> Tensor:
    mask = batch.attention_mask
    positions = position_ids(mask)
    reach = window(config)
    sees_all = reach is None or batch.width <= reach
    if sees_all and _packs(config, batch):
        visible = mask.new_ones(1, 1, batch.width, batch.width).tril()
        # behind a row's tokens none of them sees padding anyhow
        if not bool(mask[:, 0].all()):
            visible = visible & mask[:, None, None]
        return _packed_forward(backbone, batch, inputs, positions, visible)
    return _padded_forward(backbone, inputs, positions, mask.long())


def _packs(config: PreTrainedConfig, batch: TokenBatch) -> bool:
    """Whether rows are read end to end: where there is padding, and the attention is one that can."""
    can = reads_packed_rows(config._attn_implementation)
    return can and not bool(batch.attention_mask.all())


def _padded_forward(
    backbone: nn.Module, inputs: dict[str, Tensor], positions: Tensor, mask: Tensor
) -> Tensor:
    output = backbone(**inputs, attention_mask=mask, position_ids=positions, use_cache=False)
    states: Tensor = output.last_hidden_state
    return states


def _packed_forward(
    backbone: nn.Module,
    batch: TokenBatch,
    inputs: dict[str, Tensor],
    positions: Tensor,
    visible: Tensor,
) -> Tensor:
    """The same without work on padding, where the states are 0.

    visible: [B or 1, 1, T, T] bool, which places each place sees
    """
    packing = Packing.of(batch.attention_mask)
    output = backbone(
        **{name: packing.packed(values) for name, values in inputs.items()},
        attention_mask=_added(visible),
        position_ids=packing.packed(positions),
        packing=packing,
        use_cache=False,
    )
    return packing.padded(output.last_hidden_state)


def _added(visible: Tensor) -> Tensor:
    """A mask that is added to scores, float32, of one that says what is visible."""
    lowest = torch.finfo(torch.float32).min
    return torch.zeros(visible.shape, device=visible.device).masked_fill(~visible, lowest)


# -- what is read off the hidden states ------------------------------------------------------------


def unembed(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits [..., V] float32 of hidden states [..., H], scaled and capped as the model does it.

    V: the tokens that the tokenizer has. Many models have more embeddings than that.
    """
    logits: Tensor = model.get_output_embeddings()(hidden)
    return finish_logits(model, logits.float())


def target_logits(
    model: PreTrainedModel, hidden: Tensor, batch: TokenBatch, temperature: float = 1.0
) -> Tensor:
    """Logits that predict each target token, [N, V] float32, row by row.

    Divided by `temperature`, so that log-probabilities belong to the distribution that was sampled.
    """
    predicting = target_states(hidden, batch)
    return unembed(model, predicting) / temperature


def target_states(hidden: Tensor, batch: TokenBatch) -> Tensor:
    """The hidden states [N, H] of [B, T, H] that predict each target token, row by row."""
    return hidden[:, :-1][batch.target_mask[:, 1:]]


def target_tokens(batch: TokenBatch) -> Tensor:
    """The target tokens themselves, [N] int64, in the order of `target_logits`."""
    return batch.input_ids[batch.target_mask]


def token_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p of each token, [N], from logits [N, V]."""
    chosen = logits.gather(1, tokens[:, None]).squeeze(1)
    return chosen - logits.logsumexp(dim=1)


def entropies(logits: Tensor) -> Tensor:
    """Entropy of each distribution in nats, [N], from logits [N, V]."""
    logprobs = logits.log_softmax(dim=1)
    return -(logprobs.exp() * logprobs).sum(dim=1)


def scatter_to_mask(values: Tensor, mask: Tensor) -> Tensor:
    """Put flat values [N] back to the True places of `mask` [B, T]; 0 elsewhere. Keeps gradients."""
    zeros = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return zeros.masked_scatter(mask, values)


# -- the trunk: frozen lower blocks that models of one origin share --------------------------------
#
# With `trainable_layers` set, policy, reference, critic and reward model may differ in their top
# blocks only. The states below these are the same numbers, need no gradient, and stay valid for as long as
# a rollout is learnt from: they are computed once, and every model goes on from there.


def shares_trunk(one: PreTrainedModel, other: PreTrainedModel, trainable_layers: int) -> bool:
    """Whether two models are equal, bit for bit, below their top `trainable_layers` blocks.

    And whether the blocks above go on from there to the states of the whole: not where a model adds
    positions to what it is given, or scales it.
    """
    if not (_has_trunk(one) and _has_trunk(other)):
        return False
    blocks = trunk_size(one, trainable_layers)
    left, right = _trunk(one, blocks), _trunk(other, trunk_size(other, trainable_layers))
    return _equal_states(left, right) and _parts_make_the_whole(one, blocks)


def trunk_size(model: PreTrainedModel, trainable_layers: int) -> int:
    """The number of blocks below the top `trainable_layers`."""
    return len(blocks_of(model, _stack(model))) - trainable_layers


@torch.no_grad()
def trunk_states(model: PreTrainedModel, blocks: int, batch: TokenBatch) -> Tensor:
    """Hidden states after the first `blocks` blocks, [B, T, H]."""
    return _forward(model.config, _trunk(model, blocks), batch, {"input_ids": batch.input_ids})


def _trunk(model: PreTrainedModel, blocks: int) -> nn.Module:
    part = _with_blocks(model, blocks_of(model, _stack(model))[:blocks])
    norm = _stack(model).norm
    # the final norm belongs to the end of the whole model
    if norm is not None:
        part._modules[norm] = nn.Identity()
    return part


def _with_blocks(model: PreTrainedModel, blocks: Sequence[nn.Module]) -> nn.Module:
    """The backbone with some of its blocks: a new shell around the same modules."""
    part = copy.copy(model.base_model)
    part._modules = dict(model.base_model._modules)
    part._modules[_stack(model).blocks] = nn.ModuleList(blocks)
    return part


def _stack(model: PreTrainedModel) -> Stack:
    stack = find_stack(model)
    assert stack is not None, "only models with a list of blocks have a trunk"
    return stack


def _has_trunk(model: PreTrainedModel) -> bool:
    """Whether a model is a list of blocks that can be parted.

    Not where blocks are of several types (sliding and full attention): a block's type goes by its
    place, which a part of the model would shift. Nor where the list lies deeper in the backbone.
    """
    stack = find_stack(model)
    if stack is None or stack.holder:
        return False
    types = getattr(model.config, "layer_types", None) or [None]
    return len(set(types)) == 1


@torch.no_grad()
def _parts_make_the_whole(model: PreTrainedModel, blocks: int) -> bool:
    ids = torch.arange(1, 17, device=model.device)[None] % model.config.get_text_config().vocab_size
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    batch = TokenBatch(ids, everywhere, everywhere)
    states = trunk_states(model, blocks, batch)
    whole = hidden_states(model, batch)
    parted = hidden_states(model, replace(batch, trunk_states=states, trunk_blocks=blocks))
    return bool(torch.allclose(parted.float(), whole.float(), rtol=1e-2, atol=1e-2))


def _equal_states(one: nn.Module, other: nn.Module) -> bool:
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)
