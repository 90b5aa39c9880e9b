"""What an engine must know of a model with adapters (LoRA): which of its parts learn, and their dropout.

`rlhf.models.lora` puts adapters in.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rlhf.core.seeds import derive_seed


def has_adapters(model: nn.Module) -> bool:
    """Whether adapters were put into a model, or into a part of it."""
    # peft leaves its configuration there
    return any(hasattr(part, "peft_config") for part in model.modules())


def learning_parts(model: nn.Module) -> nn.ModuleList:
    """The smallest modules that hold a parameter that learns: adapters and head, without the backbone."""
    return nn.ModuleList(
        part
        for part in model.modules()
        if any(value.requires_grad for value in part.parameters(recurse=False))
    )


@contextmanager
def adapter_dropout(model: nn.Module, *names: str | int) -> Iterator[None]:
    """Let the dropout of adapters act inside the block, from a random stream of this name.

    Everywhere else models are in evaluation mode, and the backbone's own dropout stays off here too.
    The global generator is as before afterwards: a resumed run draws what the first one drew.
    """
    layers = [
        part
        for name, part in model.named_modules()
        if isinstance(part, nn.Dropout) and "lora_dropout" in name.split(".")
    ]
    if not layers:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(torch.initial_seed(), "adapter dropout", *names))
        try:
            for layer in layers:
                layer.train()
            yield
        finally:
            for layer in layers:
                layer.eval()
