"""One process, plain torch: a CPU or one GPU."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf.engine.adapters import adapter_dropout
from rlhf.engine.base import Item, Loss, Model, NonFiniteError, Trainer, learning_rate
from rlhf.engine.precision import precision_of
from rlhf.engine.threads import set_threads
from rlhf.engine.trainer_state import Shard, load_trainer_state, save_trainer_state
from rlhf.settings.training import EngineSettings, Optimizer


class TorchTrainer:
    """AdamW over the parameters that want gradients.

    The weights are float32; the forward pass runs under the engine's autocast.
    """

    def __init__(self, module: nn.Module, settings: Optimizer, total_steps: int) -> None:
        self.module = module
        self.settings = settings
        self.total_steps = total_steps
        self.steps = 0
        self._named = {
            name: value for name, value in module.named_parameters() if value.requires_grad
        }
        self._optimizer = torch.optim.AdamW(
            self._named.values(),
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )

    def learning_rate(self) -> float:
        return learning_rate(self.settings, self.steps, self.total_steps)

    def step(self, losses: Sequence[Loss]) -> float:
        # 1. gradients add up over the micro-batches, whose graphs are freed one by one
        with recomputing(self.module):
            for index, compute in enumerate(losses):
                with adapter_dropout(self.module, self.steps, index):
                    loss = compute()
                    if not torch.isfinite(loss):
                        self._optimizer.zero_grad(set_to_none=True)
                        raise NonFiniteError(f"loss is {float(loss.detach())}")
                    # one of weight 0 may reach no parameter
                    if loss.requires_grad:
                        loss.backward()

        # 2. clip the gradient of the whole step
        norm = torch.nn.utils.clip_grad_norm_(
            self._named.values(), self.settings.max_gradient_norm or float("inf")
        )
        if not torch.isfinite(norm):
            self._optimizer.zero_grad(set_to_none=True)
            raise NonFiniteError(f"gradient norm is {float(norm)}")

        # 3. step
        for group in self._optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        return float(norm)

    def save(self, directory: Path) -> None:
        save_trainer_state(directory, 0, self.steps, self._shards(), self._optimizer)

    def load(self, directory: Path) -> None:
        self.steps = load_trainer_state(directory, self._shards(), self._optimizer)

    def _shards(self) -> list[Shard]:
        return [Shard(name, 0, value, slice(None)) for name, value in self._named.items()]

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        yield self.module


class TorchEngine:
    """The engine of one process."""

    rank = 0
    world_size = 1
    whole_weights = True
    dtype = torch.float32

    def __init__(self, settings: EngineSettings) -> None:
        self.settings, self.precision = settings, precision_of(settings)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        set_threads(settings)

    def trainer(self, model: nn.Module, optimizer: Optimizer, total_steps: int) -> Trainer:
        if self.settings.gradient_checkpointing:
            enable_gradient_checkpointing(model)
        return TorchTrainer(model.to(self.device), optimizer, total_steps)

    def frozen(
        self, model: Model, trunk: nn.Module | None = None, blocks: Sequence[nn.Module] = ()
    ) -> Model:
        return model.to(self.device).eval().requires_grad_(False)

    def autocast(self) -> AbstractContextManager[object]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)

    def all_sum(self, value: Tensor) -> Tensor:
        return value

    def all_gather(self, items: Sequence[Item]) -> list[Item]:
        return list(items)


def enable_gradient_checkpointing(model: nn.Module) -> None:
    """Trade compute for memory in `model`'s transformer; takes effect within `recomputing`."""
    for part in model.modules():
        if isinstance(part, PreTrainedModel):
            part.activation_checkpointing_enable({"use_reentrant": False})
            # it would drag gradients through frozen lower layers
            part.disable_input_require_grads()
            return


@contextmanager
def recomputing(module: nn.Module) -> Iterator[None]:
    """Let gradient checkpointing, where it is enabled, take effect inside the block only.

    Layers of transformers recompute in training mode alone, and would drop the key-value cache when
    sampling. So the checkpointed layers themselves are in training mode here; what is inside of
    them, dropout, stays in evaluation mode.
    """
    layers = [part for part in module.modules() if getattr(part, "gradient_checkpointing", False)]
    before = [layer.training for layer in layers]
    try:
        for layer in layers:
            layer.training = True
        yield
    finally:
        for layer, training in zip(layers, before, strict=True):
            layer.training = training
