"""Where a family of models keeps its blocks and its final norm."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

# as the families name them: Llama and most; GPT-2, GPT-J, Falcon, Bloom; MPT
_BLOCKS = ("layers", "h", "blocks")
_NORMS = ("norm", "final_layer_norm", "final_layernorm", "ln_f", "norm_f", "layer_norm")


@dataclass(frozen=True)
class Stack:
    """A list of blocks within a backbone.

    holder: the module that has the list, by its name in the backbone; "" is the backbone itself
    blocks, norm: the names of the list and of the final norm in the holder; None: there is no norm
    """

    holder: str
    blocks: str
    norm: str | None


def find_stack(model: PreTrainedModel) -> Stack | None:
    """The blocks of the language model; None where they lie in no list of a known name."""
    count = int(model.config.get_text_config().num_hidden_layers)
    for name, holder in _text_first(model):
        for blocks in _BLOCKS:
            found = getattr(holder, blocks, None)
            if isinstance(found, nn.ModuleList) and len(found) == count:
                norms = [
                    norm for norm in _NORMS if isinstance(getattr(holder, norm, None), nn.Module)
                ]
                return Stack(name, blocks, norms[0] if norms else None)
    return None


def _text_first(model: PreTrainedModel) -> Iterator[tuple[str, nn.Module]]:
    """The modules of the backbone by name; those of a language model before a picture encoder's."""
    named = list(model.base_model.named_modules())
    return iter(sorted(named, key=lambda item: "language_model" not in item[0]))


def blocks_of(model: PreTrainedModel, stack: Stack) -> list[nn.Module]:
    """The blocks, from the bottom up."""
    return list(getattr(model.base_model.get_submodule(stack.holder), stack.blocks))


def norm_of(model: PreTrainedModel, stack: Stack) -> nn.Module | None:
    """The final norm."""
    if stack.norm is None:
        return None
    norm: nn.Module = getattr(model.base_model.get_submodule(stack.holder), stack.norm)
    return norm
