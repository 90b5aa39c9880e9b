from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from toy import copies, same, toy_batches, toy_loss, toy_model

from rlhf.engine.base import NonFiniteError
from rlhf.engine.single import TorchEngine, TorchTrainer
from rlhf.settings.training import EngineSettings, Optimizer

PLAIN = {"warmup_fraction": 0.0, "decay": "constant"}


def one_weight(value: list[float]) -> nn.Module:
    module = nn.Linear(len(value), 1, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([value]))
    return module


def test_first_adam_step_by_hand() -> None:
    # first step of Adam: w - lr * g / (|g| + eps) since both moments are corrected to g and g²
    trainer = TorchTrainer(
        one_weight([1.0, 2.0]),
        Optimizer(learning_rate=0.1, epsilon=1.0, max_gradient_norm=None, **PLAIN),
        10,
    )
    norm = trainer.step([lambda: (trainer.module.weight * torch.tensor([[3.0, -4.0]])).sum()])
    assert norm == pytest.approx(5.0)
    expected = torch.tensor([[1.0 - 0.1 * 3 / 4, 2.0 + 0.1 * 4 / 5]])
    torch.testing.assert_close(trainer.module.weight.detach(), expected)


def test_clipping_by_hand() -> None:
    # gradient (3, -4) has norm 5; clipped to norm 1 it is (0.6, -0.8); eps 1 makes Adam's step depend on the size
    trainer = TorchTrainer(
        one_weight([0.0, 0.0]),
        Optimizer(learning_rate=0.1, epsilon=1.0, max_gradient_norm=1.0, **PLAIN),
        10,
    )
    norm = trainer.step([lambda: (trainer.module.weight * torch.tensor([[3.0, -4.0]])).sum()])
    assert norm == pytest.approx(5.0)  # the norm before clipping
    expected = torch.tensor([[-0.1 * 0.6 / 1.6, 0.1 * 0.8 / 1.8]])
    torch.testing.assert_close(trainer.module.weight.detach(), expected, atol=1e-6, rtol=1e-5)


def test_eight_micro_batches_equal_one_batch_of_eight() -> None:
    optimizer = Optimizer(learning_rate=1e-3, epsilon=1e-4)
    rows = toy_batches(1, rows=8)[0]
    count = int(rows.target_mask.sum())
    once, often = TorchTrainer(toy_model(), optimizer, 3), TorchTrainer(toy_model(), optimizer, 3)
    for _ in range(3):
        norm_once = once.step([lambda: toy_loss(once.module, rows, count)])
        parts = [rows.rows(slice(row, row + 1)) for row in range(8)]
        norm_often = often.step(
            [lambda part=part: toy_loss(often.module, part, count) for part in parts]
        )
        assert norm_often == pytest.approx(norm_once, rel=1e-5)
    for name, value in copies(once.module).items():
        torch.testing.assert_close(copies(often.module)[name], value, atol=1e-6, rtol=0)


def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path) -> None:
    optimizer = Optimizer(learning_rate=1e-3, weight_decay=0.1)
    batches = toy_batches(6, rows=2)
    whole = TorchTrainer(toy_model(), optimizer, 6)
    norms = []
    for step, batch in enumerate(batches):
        norms.append(whole.step([lambda batch=batch: toy_loss(whole.module, batch, 16)]))
        if step == 2:
            whole.save(tmp_path)
    resumed = TorchTrainer(toy_model(seed=7), optimizer, 6)
    resumed.step(
        [lambda: toy_loss(resumed.module, batches[5], 16)]
    )  # state of its own that loading must replace
    resumed.load(tmp_path)
    again = [
        resumed.step([lambda batch=batch: toy_loss(resumed.module, batch, 16)])
        for batch in batches[3:]
    ]
    assert again == norms[3:]
    assert same(copies(whole.module), copies(resumed.module))


def test_a_checkpoint_of_step_zero_forgets_the_moments(tmp_path: Path) -> None:
    optimizer = Optimizer(learning_rate=1e-3)
    batch = toy_batches(1, rows=2)[0]
    fresh, used = TorchTrainer(toy_model(), optimizer, 2), TorchTrainer(toy_model(), optimizer, 2)
    fresh.save(tmp_path)
    used.step([lambda: toy_loss(used.module, batch, 16)])
    used.load(tmp_path)
    for trainer in (fresh, used):
        trainer.step([lambda trainer=trainer: toy_loss(trainer.module, batch, 16)])
    assert same(copies(fresh.module), copies(used.module))


def bad_loss(weight: Tensor) -> Tensor:
    return weight.sum() * float("nan")


def bad_gradient(weight: Tensor) -> Tensor:
    return torch.sqrt(weight.sum() * 0)  # finite, with an infinite slope


@pytest.mark.parametrize("bad", [bad_loss, bad_gradient])
def test_a_bad_step_is_refused_and_the_next_good_one_is_clean(bad: object) -> None:
    settings = Optimizer(learning_rate=0.1, **PLAIN)
    trainer, untouched = (
        TorchTrainer(one_weight([1.0, 2.0]), settings, 9),
        TorchTrainer(one_weight([1.0, 2.0]), settings, 9),
    )
    with pytest.raises(NonFiniteError):
        trainer.step([lambda: trainer.module.weight.sum(), lambda: bad(trainer.module.weight)])
    assert same(copies(trainer.module), copies(untouched.module))
    assert trainer.steps == 0
    for each in (trainer, untouched):
        each.step([lambda each=each: each.module.weight.square().sum()])
    assert same(copies(trainer.module), copies(untouched.module))


def test_a_loss_without_gradient_is_passed_over() -> None:
    trainer = TorchTrainer(one_weight([1.0, 2.0]), Optimizer(learning_rate=0.1, **PLAIN), 9)
    assert trainer.step(
        [lambda: torch.tensor(1.0), lambda: trainer.module.weight.sum()]
    ) == pytest.approx(2**0.5)


def test_gradient_checkpointing_recomputes_in_steps_only_and_changes_nothing() -> None:
    optimizer = Optimizer(learning_rate=1e-3, epsilon=1e-4)
    batch = toy_batches(1, rows=2)[0]
    trainers = [
        TorchEngine(EngineSettings(gradient_checkpointing=on)).trainer(toy_model(), optimizer, 1)
        for on in (False, True)
    ]
    calls = [0, 0]
    for index, trainer in enumerate(trainers):
        norm = trainer.module.get_submodule("model.layers.0.input_layernorm")
        norm.register_forward_hook(
            lambda *_, index=index: calls.__setitem__(index, calls[index] + 1)
        )
        trainer.step([lambda trainer=trainer: toy_loss(trainer.module, batch, 16)])
    assert calls == [1, 2]
    for name, value in copies(trainers[0].module).items():
        torch.testing.assert_close(copies(trainers[1].module)[name], value, atol=1e-7, rtol=0)
    cached = trainers[1].module(input_ids=batch.input_ids, use_cache=True).past_key_values
    assert cached.get_seq_length() == batch.input_ids.shape[1]  # sampling keeps its cache


def test_frozen_models_take_no_gradients() -> None:
    model = TorchEngine(EngineSettings()).frozen(toy_model())
    assert not any(value.requires_grad for value in model.parameters())
    assert not model.training


def test_only_trainable_parameters_are_kept(tmp_path: Path) -> None:
    model = toy_model()
    model.get_submodule("model.layers.0").requires_grad_(False)
    trainer = TorchTrainer(model, Optimizer(learning_rate=1e-3), 2)
    batch = toy_batches(1, rows=2)[0]
    before = copies(model)
    trainer.step([lambda: toy_loss(model, batch, 16)])
    after = copies(model)
    frozen = [name for name in after if ".layers.0." in name]
    assert frozen
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(
        before["model.layers.1.mlp.up_proj.weight"], after["model.layers.1.mlp.up_proj.weight"]
    )
