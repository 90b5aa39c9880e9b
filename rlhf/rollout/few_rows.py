"""Matrix products of a decoding step on a CPU, where a batch is a few rows against whole weights.

    x W^T = (W x^T)^T

The right side is another kernel of the same library. MKL has no good one for the left side when x
has few rows: `python -m tests.benchmarks.few_rows` tells both, and the gain of a whole step.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# a row alone is a product of matrix and vector, which has a kernel of its own; many rows are served well
_FEWEST, _MOST = 2, 32
# parameters: weights of a smaller model stay in the caches, where it gains nothing and asking costs
_LARGE = 10_000_000


def few_rows(model: nn.Module) -> AbstractContextManager[Any]:
    """The model's linear layers inside of it take W x^T where that is faster: in float32, with 2 to 32 rows.

    On CPUs with AVX2 and no more, the kind on which it was measured, and for models of ten million
    parameters and more; elsewhere it does nothing. Both sides differ by rounding.
    """
    measured = torch.backends.cpu.get_cpu_capability() == "AVX2"
    on_cpu = next(model.parameters()).device.type == "cpu"
    large = sum(parameter.numel() for parameter in model.parameters()) >= _LARGE
    return _WeightsFirst() if on_cpu and measured and large else nullcontext()


class _WeightsFirst(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is functional.linear and not kwargs and _pays(args[0]):
            return _weights_first(*args)
        return func(*args, **(kwargs or {}))


def _pays(states: Tensor) -> bool:
    rows = states.numel() // states.shape[-1]
    return states.dtype == torch.float32 and _FEWEST <= rows <= _MOST


def _weights_first(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    rows = states.reshape(-1, states.shape[-1])
    product = torch.mm(weight, rows.t()).t()
    if bias is not None:
        product = product + bias
    return product.reshape(*states.shape[:-1], -1)
