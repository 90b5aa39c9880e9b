"""few_rows: the other side of the transposed product, where it pays and nowhere else."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlhf.rollout.few_rows import few_rows

LARGE = 10_000_000


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """On a CPU like the measured one: the shapes of what is multiplied weights first."""
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    shapes: list[tuple[int, ...]] = []
    multiply = torch.mm

    def noted(left: Tensor, right: Tensor) -> Tensor:
        shapes.append((*left.shape, *right.shape))
        return multiply(left, right)

    monkeypatch.setattr(torch, "mm", noted)
    return shapes


def model_of(layer: nn.Module, parameters: int = LARGE, device: str = "cpu") -> nn.Module:
    """A model with a layer, and at least so many parameters besides."""
    model = nn.Sequential(layer)
    model.register_parameter("others", nn.Parameter(torch.empty(parameters, device=device)))
    return model


def both(layer: nn.Module, states: Tensor) -> tuple[Tensor, Tensor]:
    with few_rows(model_of(layer)):
        inside = layer(states)
    return inside, layer(states)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 24), (32, 24), (3, 4, 24)])
def test_the_product_is_the_same(
    products: list[tuple[int, ...]], bias: bool, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    inside, outside = both(nn.Linear(24, 40, bias=bias), torch.randn(*shape))
    assert products == [(40, 24, 24, inside.numel() // 40)]
    assert inside.shape == outside.shape
    torch.testing.assert_close(inside, outside, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "states", [torch.ones(1, 24), torch.ones(33, 24), torch.ones(4, 24).bfloat16()]
)
def test_what_would_not_gain_is_left_as_it_is(
    products: list[tuple[int, ...]], states: Tensor
) -> None:
    inside, outside = both(nn.Linear(24, 40).to(states.dtype), states)
    assert not products
    assert torch.equal(inside, outside)


def test_named_arguments_are_left_as_they_are(products: list[tuple[int, ...]]) -> None:
    states, weight = torch.ones(4, 24), torch.ones(40, 24)
    with few_rows(model_of(nn.Linear(24, 40))):
        functional.linear(states, weight=weight)
    assert not products


@pytest.mark.parametrize(
    ("kind", "device", "parameters"),
    [("AVX512", "cpu", LARGE), ("AVX2", "meta", LARGE), ("AVX2", "cpu", LARGE - 2000)],
)
def test_elsewhere_it_does_nothing(
    products: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    device: str,
    parameters: int,
) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: kind)
    layer = nn.Linear(24, 40)
    with few_rows(model_of(layer, parameters, device)):
        layer(torch.ones(4, 24))
    assert not products
