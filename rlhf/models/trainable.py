"""Which parameters of a model learn."""

import torch
from torch import nn
from transformers import PreTrainedModel

from rlhf.common.errors import ModelError
from rlhf.core.seeds import generator
from rlhf.models.blocks import blocks_of, find_stack, norm_of
from rlhf.settings.training import Lora

# of the length of a usual embedding: what lies nearer is the same
_NEAR = 0.01
_EXACT = "donot_use_mm_for_euclid_dist"


def choose_trainable(
    model: PreTrainedModel, layers: int | None, lora: Lora | None, seed: int, *names: str | int
) -> None:
    """Let a model learn as the settings say: its weights or adapters, in its top `layers` blocks or in all.

    seed, names: of the random numbers that adapters begin with
    """
    if lora is None:
        train_only_top(model, layers)
        return
    # peft takes a second to import
    from rlhf.models.lora import add_adapters

    blocks = _all_blocks(model) if layers is None else top_blocks(model, layers)
    add_adapters(model, lora, blocks, generator(seed, *names, "adapters"))


def train_only_top(model: PreTrainedModel, layers: int | None) -> None:
    """Let gradients flow into the top `layers` blocks, the final norm and the head alone.

    None: into everything. Tied embeddings stay frozen with the lower blocks, since they are below
    them. Raises ModelError for a model without a list of layers, or with fewer of them.
    """
    if layers is None:
        return
    blocks = top_blocks(model, layers)
    model.requires_grad_(False)
    for block in blocks:
        block.requires_grad_(True)
    stack = find_stack(model)
    norm = None if stack is None else norm_of(model, stack)
    if norm is not None:
        norm.requires_grad_(True)
    head = model.get_output_embeddings()
    if head.weight is not model.get_input_embeddings().weight:
        head.requires_grad_(True)


def top_blocks(model: PreTrainedModel, layers: int) -> list[nn.Module]:
    """The top `layers` blocks; raises ModelError where there is no list of them, or fewer."""
    stack = find_stack(model)
    if stack is None:
        kind = type(model).__name__
        raise ModelError(f"trainable_layers: a {kind} has no list of layers to choose from")
    blocks = blocks_of(model, stack)
    if layers > len(blocks):
        raise ModelError(f"trainable_layers {layers}: the model has {len(blocks)} layers")
    return blocks[len(blocks) - layers :]


@torch.no_grad()
def inseparable(model: PreTrainedModel, token: int) -> list[int]:
    """The tokens that a model will always give the logit of another one, whatever it learns.

    Those whose rows of an unembedding that does not learn are next to equal: tokens that a base was
    never trained on, for one. None where the unembedding learns.
    """
    weight = model.get_output_embeddings().weight
    if weight.requires_grad:
        return []
    # those without a name are never sampled
    rows = weight[: getattr(model, "tokens_with_a_name", None)].float()
    # without a table of differences as large as the embeddings
    distances = torch.cdist(rows, rows[token : token + 1], compute_mode=_EXACT).squeeze(1)
    near = (distances <= _NEAR * rows.norm(dim=1).median()).nonzero().squeeze(1).tolist()
    return [other for other in near if other != token]


def _all_blocks(model: PreTrainedModel) -> list[nn.Module]:
    stack = find_stack(model)
    # where they lie in no list of a known name, all but the unembedding
    return [model.base_model] if stack is None else blocks_of(model, stack)
