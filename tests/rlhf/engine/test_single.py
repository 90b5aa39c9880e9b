from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from toy import copies, same, toy_batches, toy_loss, toy_model

from rlhf.batches.padding import TokenBatch
from rlhf.engine.base import Loss, NonFiniteError, Trainer
from rlhf.engine.single import TorchEngine, TorchTrainer
from rlhf.settings.training import EngineSettings, Optimizer

PLAIN = {"warmup_fraction": 0.0, "decay": "constant"}


def one_weight(value: list[float]) -> nn.Module:
    module = nn.Linear(len(value), 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([value]))
    return module


def one_weight_trainer(value: list[float], **settings: Any) -> TorchTrainer:
    optimizer = Optimizer.model_validate({"learning_rate": 0.1, **PLAIN, **settings})
    return TorchTrainer(one_weight(value), optimizer, 10)


def weight_of(trainer: Trainer) -> Tensor:
    """The one parameter of a trainer's model."""
    (weight,) = trainer.module.parameters()
    return weight


def with_gradient(trainer: Trainer, slope: list[float]) -> Loss:
    """A loss whose gradient is `slope`."""
    return lambda: (weight_of(trainer) * torch.tensor([slope])).sum()


def loss_of(trainer: Trainer, batch: TokenBatch, count: int = 16) -> Loss:
    """The loss of one micro-batch of the toy model."""
    return partial(toy_loss, trainer.module, batch, count)


# -- one step -----------------------------------------------------------------------------------


def test_first_adam_step_by_hand() -> None:
    # w - lr * g / (|g| + eps), since both moments are corrected to g and g²
    trainer = one_weight_trainer([1.0, 2.0], epsilon=1.0, max_gradient_norm=None)
    norm = trainer.step([with_gradient(trainer, [3.0, -4.0])])
    assert norm == pytest.approx(5.0)
    expected = torch.tensor([[1.0 - 0.1 * 3 / 4, 2.0 + 0.1 * 4 / 5]])
    torch.testing.assert_close(weight_of(trainer).detach(), expected)


def test_clipping_by_hand() -> None:
    # gradient (3, -4) has norm 5; clipped to norm 1 it is (0.6, -0.8)
    # eps 1 makes Adam's step depend on the size
    trainer = one_weight_trainer([0.0, 0.0], epsilon=1.0, max_gradient_norm=1.0)
    norm = trainer.step([with_gradient(trainer, [3.0, -4.0])])
    # the norm before clipping
    assert norm == pytest.approx(5.0)
    expected = torch.tensor([[-0.1 * 0.6 / 1.6, 0.1 * 0.8 / 1.8]])
    torch.testing.assert_close(weight_of(trainer).detach(), expected, atol=1e-6, rtol=1e-5)


def test_eight_micro_batches_equal_one_batch_of_eight() -> None:
    optimizer = Optimizer(learning_rate=1e-3, epsilon=1e-4)
    rows = toy_batches(1, rows=8)[0]
    count = int(rows.target_mask.sum())
    once, often = TorchTrainer(toy_model(), optimizer, 3), TorchTrainer(toy_model(), optimizer, 3)
    for _ in range(3):
        norm_once = once.step([loss_of(once, rows, count)])
        norm_often = often.step([loss_of(often, part, count) for part in rows.micro_batches(1)])
        assert norm_often == pytest.approx(norm_once, rel=1e-5)
    for name, value in copies(once.module).items():
        torch.testing.assert_close(copies(often.module)[name], value, atol=1e-6, rtol=0)


# -- resuming -----------------------------------------------------------------------------------


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    optimizer = Optimizer(learning_rate=1e-3, weight_decay=0.1)
    batches = toy_batches(6, rows=2)
    uninterrupted = TorchTrainer(toy_model(), optimizer, 6)
    norms = []
    for step, batch in enumerate(batches):
        norms.append(uninterrupted.step([loss_of(uninterrupted, batch)]))
        if step == 2:
            uninterrupted.save(tmp_path)

    resumed = TorchTrainer(toy_model(seed=7), optimizer, 6)
    # state of its own that loading must replace
    resumed.step([loss_of(resumed, batches[5])])
    resumed.load(tmp_path)
    again = [resumed.step([loss_of(resumed, batch)]) for batch in batches[3:]]
    assert again == norms[3:]
    assert same(copies(uninterrupted.module), copies(resumed.module))


def test_a_checkpoint_of_step_zero_forgets_the_moments(tmp_path: Path) -> None:
    optimizer = Optimizer(learning_rate=1e-3)
    batch = toy_batches(1, rows=2)[0]
    fresh, used = TorchTrainer(toy_model(), optimizer, 2), TorchTrainer(toy_model(), optimizer, 2)
    fresh.save(tmp_path)
    used.step([loss_of(used, batch)])
    used.load(tmp_path)
    for trainer in (fresh, used):
        trainer.step([loss_of(trainer, batch)])
    assert same(copies(fresh.module), copies(used.module))


# -- faults -------------------------------------------------------------------------------------


def bad_loss(weight: Tensor) -> Tensor:
    return weight.sum() * float("nan")


def bad_gradient(weight: Tensor) -> Tensor:
    """Finite, with an infinite slope."""
    return torch.sqrt(weight.sum() * 0)


@pytest.mark.parametrize("bad", [bad_loss, bad_gradient])
def test_a_bad_step_is_refused_and_the_next_good_one_is_clean(
    bad: Callable[[Tensor], Tensor],
) -> None:
    trainer, untouched = one_weight_trainer([1.0, 2.0]), one_weight_trainer([1.0, 2.0])
    with pytest.raises(NonFiniteError):
        trainer.step([weight_of(trainer).sum, partial(bad, weight_of(trainer))])
    assert same(copies(trainer.module), copies(untouched.module))
    assert trainer.steps == 0
    for each in (trainer, untouched):
        each.step([weight_of(each).square().sum])
    assert same(copies(trainer.module), copies(untouched.module))


def test_a_loss_without_gradient_is_passed_over() -> None:
    trainer = one_weight_trainer([1.0, 2.0])
    without_gradient = partial(torch.tensor, 1.0)
    norm = trainer.step([without_gradient, weight_of(trainer).sum])
    assert norm == pytest.approx(2**0.5)


# -- memory -------------------------------------------------------------------------------------


def count_pass(passes: list[int], *_: object) -> None:
    passes.append(1)


def checkpointing_trainer(on: bool) -> Trainer:
    engine = TorchEngine(EngineSettings(gradient_checkpointing=on))
    return engine.trainer(toy_model(), Optimizer(learning_rate=1e-3, epsilon=1e-4), 1)


def test_gradient_checkpointing_recomputes_in_steps_only_and_changes_nothing() -> None:
    batch = toy_batches(1, rows=2)[0]
    plain, recomputing = checkpointing_trainer(False), checkpointing_trainer(True)
    passes: dict[str, list[int]] = {"plain": [], "recomputing": []}
    for name, trainer in (("plain", plain), ("recomputing", recomputing)):
        norm = trainer.module.get_submodule("model.layers.0.input_layernorm")
        norm.register_forward_hook(partial(count_pass, passes[name]))
        trainer.step([loss_of(trainer, batch)])
    # once more in the backward pass
    assert (len(passes["plain"]), len(passes["recomputing"])) == (1, 2)
    for name, value in copies(plain.module).items():
        torch.testing.assert_close(copies(recomputing.module)[name], value, atol=1e-7, rtol=0)

    # sampling keeps its cache
    output = recomputing.module(input_ids=batch.input_ids, use_cache=True)
    assert output.past_key_values.get_seq_length() == batch.input_ids.shape[1]


def test_frozen_models_take_no_gradients() -> None:
    model = TorchEngine(EngineSettings()).frozen(toy_model())
    assert not any(value.requires_grad for value in model.parameters())
    assert not model.training


def test_only_trainable_parameters_move_and_are_saved(tmp_path: Path) -> None:
    model = toy_model()
    model.get_submodule("model.layers.0").requires_grad_(False)
    trainer = TorchTrainer(model, Optimizer(learning_rate=1e-3), 2)
    before = copies(model)
    trainer.step([loss_of(trainer, toy_batches(1, rows=2)[0])])
    after = copies(model)
    frozen = {name for name in after if ".layers.0." in name}
    unmoved = {name for name in after if torch.equal(before[name], after[name])}
    assert frozen and unmoved == frozen

    trainer.save(tmp_path)
    saved = load_file(tmp_path / "weights-00000.safetensors")
    assert {key.removesuffix("@0") for key in saved} == after.keys() - frozen


# -- one process --------------------------------------------------------------------------------


def test_sums_and_gathers_of_one_process_are_what_it_has() -> None:
    engine = TorchEngine(EngineSettings())
    assert (engine.rank, engine.world_size, engine.whole_weights) == (0, 1, True)
    value = torch.tensor([1.0, 2.0])
    assert torch.equal(engine.all_sum(value), value)
    assert engine.all_gather(["a", "b"]) == ["a", "b"]


def test_a_model_is_whole_inside_of_gathered() -> None:
    trainer = TorchTrainer(toy_model(), Optimizer(learning_rate=1e-3), 1)
    with trainer.gathered() as module:
        assert module is trainer.module
