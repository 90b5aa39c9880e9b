"""Which parameters of a model learn."""

from torch import nn
from transformers import PreTrainedModel

from rlhf.common.errors import ModelError
from rlhf.core.seeds import generator
from rlhf.models.blocks import blocks_of, find_stack, norm_of
from rlhf.settings.training import Lora


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


def _all_blocks(model: PreTrainedModel) -> list[nn.Module]:
    stack = find_stack(model)
    # where they lie in no list of a known name, all but the unembedding
    return [model.base_model] if stack is None else blocks_of(model, stack)
