"""Many processes (or one) with DeepSpeed ZeRO: the sole importer of deepspeed.

DeepSpeed averages gradients over processes; here every loss is multiplied by their number first, so
that a step is one on the sum of all losses, as with plain torch. In bf16 the weights are kept in
bf16 with a float32 master copy that ZeRO spreads over the processes; models that are only read are
cast too, so that a reference equals the policy it began as.
"""

import atexit
import math
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
from deepspeed.utils import set_log_level_from_string
from torch import Tensor, nn

from rlhf.engine.adapters import adapter_dropout, has_adapters, learning_parts
from rlhf.engine.base import Item, Loss, Model, NonFiniteError, Trainer, learning_rate
from rlhf.engine.precision import Precision, precision_of
from rlhf.engine.processes import all_gather
from rlhf.engine.shards import move_others, spread
from rlhf.engine.single import enable_gradient_checkpointing, recomputing
from rlhf.engine.threads import set_threads
from rlhf.engine.trainer_state import Shard, load_trainer_state, save_trainer_state
from rlhf.engine.zero_state import forget_gradients, refresh_weights, shards_of
from rlhf.settings.training import EngineSettings, Optimizer

# How long processes wait for one of them. It alone hashes the input models and writes the outputs,
# which with large ones on a slow disk takes longer than the usual ten minutes. Not how long they wait
# for one that died: torchrun ends them at once.
PATIENCE = timedelta(hours=4)


class _Root(nn.Module):
    """Runs a loss inside DeepSpeed's forward pass, whatever parts of the model that loss calls."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, compute: Callable[[], Tensor]) -> Tensor:
        return compute()


class ZeroTrainer:
    """AdamW under ZeRO over the parameters that want gradients.

    The loss of each micro-batch must reach the same parameters on every process, or the processes
    wait for each other for ever: let a process that has nothing left repeat a micro-batch with
    weight 0 (`rlhf.engine.share`). After a NonFiniteError the weights are those before the step,
    and the trainer may save but not step again.
    """

    def __init__(
        self,
        module: nn.Module,
        engine: EngineSettings,
        precision: Precision,
        settings: Optimizer,
        total_steps: int,
    ) -> None:
        self.module = module
        self.settings = settings
        self.total_steps = total_steps
        self.steps = 0
        optimizer = torch.optim.AdamW(
            [value for value in module.parameters() if value.requires_grad],
            lr=settings.learning_rate,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        buffers = {name: value.clone() for name, value in module.named_buffers()}
        # a frozen backbone stays whole in each process, as that of a reference does: it may be theirs
        given = learning_parts(module) if has_adapters(module) else module
        config = _config(engine, precision, settings)
        if engine.zero_stage == 3:
            if precision == "bf16":
                given.bfloat16()
            # one weight after the other goes to the card and is dealt out: no card ever has them all
            deepspeed.zero.Init(module=given, config_dict_or_path=config)
        self._engine, *_ = deepspeed.initialize(
            model=_Root(given), optimizer=optimizer, config=config
        )
        # they are cast and left where they were: positions must stay in float32
        for name, value in module.named_buffers():
            value.data = buffers[name].to(self._engine.device)

    def learning_rate(self) -> float:
        return learning_rate(self.settings, self.steps, self.total_steps)

    def step(self, losses: Sequence[Loss]) -> float:
        # 1. gradients; ZeRO averages over processes, so each loss is multiplied by their number
        self._expect_equal_counts(len(losses))
        with recomputing(self.module):
            for index, compute in enumerate(losses):
                # processes take turns, as in `share`: the number of a micro-batch in the whole batch
                number = index * dist.get_world_size() + dist.get_rank()
                with adapter_dropout(self.module, self.steps, number):
                    loss = self._engine(compute)
                    self._refuse_bad_loss(loss)
                    self._engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)

        # 2. step
        for group in self._engine.optimizer.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self._engine.step()
        forget_gradients(self._engine.optimizer)
        norm = float(self._engine.get_global_grad_norm())
        if not self._engine.was_step_applied():
            raise NonFiniteError("the gradient norm is not finite")
        self.steps += 1
        return norm

    def save(self, directory: Path) -> None:
        save_trainer_state(directory, dist.get_rank(), self.steps, *self._kept())

    def load(self, directory: Path) -> None:
        self.steps = load_trainer_state(directory, *self._kept())
        refresh_weights(self._engine.optimizer)

    @contextmanager
    def gathered(self) -> Iterator[nn.Module]:
        offload = getattr(self._engine.optimizer, "parameter_offload", None)
        if offload is None:
            # ZeRO 1 and 2 keep whole weights
            yield self.module
            return
        with deepspeed.zero.GatheredParameters(list(self.module.parameters())):
            # the hooks would part the weights layer by layer
            for hook in (*offload.forward_hooks, *offload.backward_hooks):
                hook.remove()
            offload.forward_hooks, offload.backward_hooks = [], []
            try:
                yield self.module
            finally:
                offload._register_deepspeed_module(offload.module)

    def _kept(self) -> tuple[list[Shard], torch.optim.Optimizer]:
        """This process's part of the float32 weights, and the optimiser that has their moments."""
        wrapper = self._engine.optimizer
        return shards_of(self.module, wrapper), wrapper.optimizer

    def _expect_equal_counts(self, count: int) -> None:
        fewest = _all_reduce(
            torch.tensor([count, -count], device=self._engine.device), dist.ReduceOp.MIN
        ).tolist()
        if fewest[0] != -fewest[1] or count == 0:
            raise ValueError(
                "every process must pass equally many losses, at least one: "
                f"{fewest[0]} to {-fewest[1]}"
            )

    def _refuse_bad_loss(self, loss: Tensor) -> None:
        """Stop on every process alike, before any of them waits for the gradients of another."""
        facts = torch.tensor(
            [bool(torch.isfinite(loss.detach())), loss.requires_grad], dtype=torch.int32
        )
        finite, differentiable = _all_reduce(
            facts.to(self._engine.device), dist.ReduceOp.MIN
        ).tolist()
        if not finite:
            value = float(loss.detach())
            elsewhere = ", not finite on another process" if math.isfinite(value) else ""
            raise NonFiniteError(f"loss is {value} here{elsewhere}")
        if not differentiable:
            raise ValueError(
                "a loss reaches no parameter that learns; for one that must not count, use weight 0"
            )


class ZeroEngine:
    """The engine of `torchrun` processes; a process started without it is a group of one."""

    whole_weights = False

    def __init__(self, settings: EngineSettings) -> None:
        self.settings, self.precision = settings, precision_of(settings)
        self.dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        set_threads(settings)
        self.device = _join_processes()
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()

    def trainer(self, model: nn.Module, optimizer: Optimizer, total_steps: int) -> Trainer:
        if self.settings.gradient_checkpointing:
            enable_gradient_checkpointing(model)
        if has_adapters(model):
            self._cast_frozen(model)
        # what ZeRO-3 deals out it moves itself, and adapters' backbone stays whole
        if self.settings.zero_stage < 3 or has_adapters(model):
            model.to(self.device)
        return ZeroTrainer(model, self.settings, self.precision, optimizer, total_steps)

    def frozen(
        self, model: Model, trunk: nn.Module | None = None, blocks: Sequence[nn.Module] = ()
    ) -> Model:
        model.requires_grad_(False).eval()
        self._cast_frozen(model)
        where = self.settings.frozen_models
        if trunk is None or not blocks or where == "whole":
            return model.to(self.device)
        move_others(model, blocks, self.device)
        spread(trunk, blocks, self.device, on_host=where == "host")
        return model

    def _cast_frozen(self, model: nn.Module) -> None:
        if self.precision == "bf16":
            for value in model.parameters():
                if not value.requires_grad:
                    value.data = value.data.bfloat16()

    def autocast(self) -> AbstractContextManager[object]:
        # the weights themselves are in the settings' precision
        return nullcontext()

    def all_sum(self, value: Tensor) -> Tensor:
        return _all_reduce(value.detach().clone().to(self.device), dist.ReduceOp.SUM).to(
            value.device
        )

    def all_gather(self, items: Sequence[Item]) -> list[Item]:
        return all_gather(items)


def _all_reduce(value: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
    dist.all_reduce(value, op=operation)
    return value


def _join_processes() -> torch.device:
    """Join the process group; gives this process's device."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if "MASTER_PORT" not in os.environ:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            os.environ["MASTER_PORT"] = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}.items():
        os.environ.setdefault(name, value)
    set_log_level_from_string("warning")
    # DeepSpeed's own calls
    warnings.filterwarnings("ignore", r"`torch\.distributed\..*` is deprecated", FutureWarning)
    atexit.register(_leave_processes)
    if not torch.cuda.is_available():
        # else it is compiled here, for about a minute
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed("gloo", verbose=False, timeout=PATIENCE)
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    torch.cuda.set_device(device)
    deepspeed.init_distributed("nccl", verbose=False, timeout=PATIENCE)
    return device


def _leave_processes() -> None:
    """Close the group in order.

    Left to the interpreter's end, gloo's threads now and then abort the process.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def _config(engine: EngineSettings, precision: Precision, settings: Optimizer) -> dict[str, Any]:
    zero: dict[str, Any] = {"stage": engine.zero_stage, "overlap_comm": False}
    if engine.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if engine.offload == "optimizer-and-parameters":
        zero["offload_param"] = {"device": "cpu"}
    return {
        # both counts are bookkeeping only: `ZeroTrainer.step` says where a step ends
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": settings.max_gradient_norm or 0.0,
        "bf16": {"enabled": precision == "bf16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": zero,
        # torch's fused AdamW steps what is on the host too: DeepSpeed's own has to be compiled there
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
