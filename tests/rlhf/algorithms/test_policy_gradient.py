"""The policy gradient: by enumeration, by finite differences, and by a task it has to solve."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import counted_tokens
import pytest
import torch
from given import step_loss, update_of
from members import FORMS
from neighbours import APA, AWR, ETPO, REINFORCE_PP, RLOO
from slow_ppo import make, move, roll
from tiny import PAD
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import rlhf.ppo as ppo
from rlhf.batches.padding import pad
from rlhf.workspace import Workspace

# -- by enumeration -----------------------------------------------------------------------------

LENGTH = 3
# all of a vocabulary of two tokens
RESPONSES = list(itertools.product((0, 1), repeat=LENGTH))
PREFIXES = 2**LENGTH - 1


def prefix_rows(tokens: Tensor) -> Tensor:
    """The number of the prefix before each token, [B, R]; prefixes count in order of length."""
    columns = []
    for step in range(LENGTH):
        prefix = torch.zeros_like(tokens[:, 0])
        for place in range(step):
            prefix = 2 * prefix + tokens[:, place]
        columns.append(2**step - 1 + prefix)
    return torch.stack(columns, dim=1)


def table_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p of each token of responses [B, R] under a table of logits [prefixes, 2]."""
    of_prefix = logits.log_softmax(1)[prefix_rows(tokens)]
    return of_prefix.gather(2, tokens[:, :, None]).squeeze(2)


@pytest.mark.parametrize("eta", [0.0, 0.3])
@pytest.mark.parametrize("epsilon", [None, 0.2])
def test_the_surrogate_has_the_gradient_of_the_expected_reward(
    eta: float, epsilon: float | None
) -> None:
    """Summed over all responses by probability, against torch's own gradient of the objective.

    That is E[r] - eta KL(pi || pi_ref). The values are noise: with lambda = 1 they are a baseline,
    which must not bias the gradient.
    """
    random = torch.Generator().manual_seed(0)
    start, reference = (
        torch.randn((PREFIXES, 2), generator=random, dtype=torch.float64) for _ in range(2)
    )
    tokens = torch.tensor(RESPONSES)
    scores = torch.randn(len(RESPONSES), generator=random, dtype=torch.float64)
    by_state = torch.randn(PREFIXES, generator=random, dtype=torch.float64)
    reference_logprobs = table_logprobs(reference, tokens)

    # 1. the objective itself
    exact = start.clone().requires_grad_()
    of_response = table_logprobs(exact, tokens).sum(dim=1)
    divergence = of_response - reference_logprobs.sum(dim=1)
    objective = (of_response.exp() * (scores - eta * divergence)).sum()
    objective.backward()

    # 2. the surrogate
    free = start.clone().requires_grad_()
    logprobs = table_logprobs(free, tokens)
    old, mask = logprobs.detach(), torch.ones(tokens.shape, dtype=torch.bool)
    kl = ppo.kl_estimate(old, reference_logprobs)
    rewards = ppo.final_score(scores, mask) + ppo.kl_penalty(kl, mask, eta)
    values = by_state[prefix_rows(tokens)]
    advantages, _ = ppo.gae(rewards, values, mask, gamma=1.0, lam=1.0)
    losses, ratio = ppo.surrogate(logprobs, old, advantages, epsilon)
    assert torch.equal(ratio, torch.ones_like(ratio))
    (old.sum(dim=1).exp()[:, None] * losses).sum().backward()

    assert exact.grad is not None and free.grad is not None
    torch.testing.assert_close(-free.grad, exact.grad, atol=1e-12, rtol=1e-10)


# -- by finite differences ----------------------------------------------------------------------

# every term that PPO-max's loss can have
EVERY_TERM: Mapping[str, Any] = {
    "ppo.entropy": {"coefficient": 0.1, "target": 3.0},
    "ppo.advantage": {"normalise": "mini-batch", "clip": 1.0},
    "ppo.penalty": {"coefficient": 0.5, "target": None},
    "ppo.surrogate_clip": None,
    "ppo.ptx": {"coefficient": 0.1, "windows": 1},
}


@pytest.fixture
def everything_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take out the places where losses, head and transformer go to float32 by name."""
    softmax = nn.functional.softmax

    # a sampler's mode of torch functions hands more on than it was given
    def softmax_as_it_is(
        values: Tensor, dim: int, dtype: torch.dtype | None = None, **_: Any
    ) -> Tensor:
        return softmax(values, dim=dim)

    def norm(self: LlamaRMSNorm, values: Tensor) -> Tensor:
        mean_square = values.square().mean(-1, keepdim=True)
        return self.weight * values * (mean_square + self.variance_epsilon).rsqrt()

    monkeypatch.setattr(nn.functional, "softmax", softmax_as_it_is)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)


@pytest.mark.usefixtures("everything_in_float64")
@pytest.mark.parametrize(
    ("changes", "role"),
    [
        pytest.param(EVERY_TERM, "policy", id="ppo-max-policy"),
        pytest.param(EVERY_TERM, "critic", id="ppo-max-critic"),
        pytest.param(APA, "policy", id="apa-policy"),
        pytest.param(APA, "critic", id="apa-critic"),
        pytest.param(AWR, "policy", id="awr-policy"),
        pytest.param(RLOO, "policy", id="rloo-policy"),
        pytest.param(FORMS["grpo-sequence"], "policy", id="grpo-policy"),
        pytest.param(REINFORCE_PP, "policy", id="reinforce-pp-policy"),
        pytest.param(ETPO, "policy", id="etpo-policy"),
        pytest.param(ETPO, "critic", id="etpo-critic"),
    ],
)
def test_gradients_equal_finite_differences_in_float64(
    prepared: Workspace, changes: Mapping[str, Any], role: str
) -> None:
    """Of the whole loss with every term in it, after some updates, on the tiny model."""
    algorithm = make(prepared, changes)
    frozen = ("reference", "reward", *(["target"] if changes is ETPO else []))
    for name in (*algorithm.models.trainers, *frozen):
        algorithm.models[name].double()
    text = pad([[5, 6, 7, 8]], [[True] * 4], PAD)
    update = update_of(algorithm, role, roll(algorithm, rows=range(4)), text=text)
    module = algorithm.models[role]
    # ETPO's policy learns from a critic that starts at 0
    for learner in algorithm.models.trainers:
        move(algorithm.models[learner], seed=7)

    def total() -> Tensor:
        return step_loss(update, role=role).total

    module.zero_grad()
    total().backward()
    random = torch.Generator().manual_seed(8)
    for name, value in list(module.named_parameters())[::5]:
        direction = torch.randn(value.shape, generator=random, dtype=value.dtype)
        assert value.grad is not None and value.dtype == torch.float64, name
        slope = float((value.grad * direction).sum())
        expected = difference(value, direction, total)
        assert slope == pytest.approx(expected, rel=1e-5, abs=1e-9), name


@torch.no_grad()
def difference(
    value: nn.Parameter, direction: Tensor, total: Callable[[], Tensor], size: float = 1e-6
) -> float:
    """Slope of `total` along a direction by central differences."""
    value.add_(size * direction)
    above = float(total())
    value.sub_(2 * size * direction)
    below = float(total())
    value.add_(size * direction)
    return (above - below) / (2 * size)


# -- by a task ----------------------------------------------------------------------------------


def test_ppo_max_solves_a_bandit_of_counted_tokens(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, last = counted_tokens.solve(workspace, monkeypatch, {"ppo.kl.coefficient": 0.01})
    assert first < 1.0
    assert last > 5.4
