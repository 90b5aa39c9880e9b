"""Which parameters of a model learn."""

from transformers import PreTrainedModel

from rlhf.common.errors import ModelError
from rlhf.models.blocks import blocks_of, find_stack, norm_of


def train_only_top(model: PreTrainedModel, layers: int | None) -> None:
    """Let gradients flow into the top `layers` blocks, the final norm and the head alone.

    None: into everything. Tied embeddings stay frozen with the lower blocks, since they are below
    them. Raises ModelError for a model without a list of layers, or with fewer of them.
    """
    if layers is None:
        return
    stack = find_stack(model)
    if stack is None:
        kind = type(model).__name__
        raise ModelError(f"trainable_layers: a {kind} has no list of layers to choose from")
    blocks = blocks_of(model, stack)
    if layers > len(blocks):
        raise ModelError(f"trainable_layers {layers}: the model has {len(blocks)} layers")

    model.requires_grad_(False)
    for block in blocks[len(blocks) - layers :]:
        block.requires_grad_(True)
    norm = norm_of(model, stack)
    if norm is not None:
        norm.requires_grad_(True)
    head = model.get_output_embeddings()
    if head.weight is not model.get_input_embeddings().weight:
        head.requires_grad_(True)
