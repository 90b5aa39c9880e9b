"""The policy gradient itself: exact by enumeration, by finite differences, and by a task that it has to solve."""

import itertools
import json
from collections.abc import Callable

import pytest
import torch
from tiny import EOS, GOOD, PAD, tiny_settings
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rlhf.algorithms import ALGORITHMS, Context, Material, PpoMax
from rlhf.batches.padding import TokenBatch, pad
from rlhf.core.tally import Tally
from rlhf.engine import make_engine
from rlhf.ppo.advantages import gae
from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.losses import surrogate
from rlhf.ppo.rewards import token_rewards
from rlhf.rollout.actor import Actor
from rlhf.rollout.records import PromptBatch
from rlhf.rollout.sampler import SamplingRule
from rlhf.training import loop
from rlhf.workspace import Workspace

LENGTH = 3
RESPONSES = list(itertools.product((0, 1), repeat=LENGTH))  # all of a vocabulary of two tokens


def table_logprobs(logits: Tensor, tokens: Tensor) -> Tensor:
    """log p of each token of responses [B, R] under logits [prefixes, 2] of all prefixes, in order of length."""
    columns = []
    for step in range(LENGTH):
        prefix = sum(
            (tokens[:, place] << (step - 1 - place) for place in range(step)),
            start=torch.zeros_like(tokens[:, 0]),
        )
        rows = 2**step - 1 + prefix
        columns.append(logits.log_softmax(1)[rows, tokens[:, step]])
    return torch.stack(columns, dim=1)


@pytest.mark.parametrize("eta", [0.0, 0.3])
@pytest.mark.parametrize("epsilon", [None, 0.2])
def test_the_surrogate_has_the_gradient_of_the_expected_reward(
    eta: float, epsilon: float | None
) -> None:
    """Summed over all responses by their probability, against torch's own gradient of E[r] - eta KL(pi || pi_ref).

    The values are noise: with lambda = 1 they are a baseline, which must not bias the gradient.
    """
    random = torch.Generator().manual_seed(0)
    prefixes = 2**LENGTH - 1
    start, reference = (
        torch.randn((prefixes, 2), generator=random, dtype=torch.float64) for _ in range(2)
    )
    tokens = torch.tensor(RESPONSES)
    scores = torch.randn(len(RESPONSES), generator=random, dtype=torch.float64)
    by_state = torch.randn(prefixes, generator=random, dtype=torch.float64)
    reference_logprobs = table_logprobs(reference, tokens)

    exact = start.clone().requires_grad_()
    logprobs = table_logprobs(exact, tokens)
    whole = logprobs.sum(dim=1)
    objective = (whole.exp() * (scores - eta * (whole - reference_logprobs.sum(dim=1)))).sum()
    objective.backward()

    free = start.clone().requires_grad_()
    logprobs = table_logprobs(free, tokens)
    old, mask = logprobs.detach(), torch.ones(tokens.shape, dtype=torch.bool)
    places = [
        [2**step - 1 + int("0" + "".join(map(str, row[:step])), 2) for step in range(LENGTH)]
        for row in RESPONSES
    ]
    values = by_state[torch.tensor(places)]
    rewards = token_rewards(scores, kl_estimate(old, reference_logprobs), mask, eta)
    advantages, _ = gae(rewards, values, mask, gamma=1.0, lam=1.0)
    losses, ratio = surrogate(logprobs, old, advantages, epsilon)
    assert torch.equal(ratio, torch.ones_like(ratio))
    (old.sum(dim=1).exp()[:, None] * losses).sum().backward()
    assert exact.grad is not None and free.grad is not None
    torch.testing.assert_close(-free.grad, exact.grad, atol=1e-12, rtol=1e-10)


PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7], [2, 50, 51, 52]]


@pytest.fixture
def everything_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take out the places where losses, head and transformer go to float32 by name."""
    softmax = nn.functional.softmax
    monkeypatch.setattr(
        nn.functional, "softmax", lambda values, dim, dtype=None: softmax(values, dim=dim)
    )
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)

    def norm(self: LlamaRMSNorm, values: Tensor) -> Tensor:
        return (
            self.weight
            * values
            * (values.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
        )

    monkeypatch.setattr(LlamaRMSNorm, "forward", norm)


@pytest.mark.usefixtures("everything_in_float64")
@pytest.mark.parametrize("name", ["policy", "critic"])
def test_gradients_equal_finite_differences_in_float64(prepared: Workspace, name: str) -> None:
    """Of the whole loss with every term in it, after some updates, on the tiny model."""
    changes = {
        "ppo.entropy": {"coefficient": 0.1, "target": 3.0},
        "ppo.advantage": {"normalise": "mini-batch", "clip": 1.0},
        "ppo.penalty": {"coefficient": 0.5, "target": None},
        "ppo.surrogate_clip": None,
    }
    settings = tiny_settings(changes)
    algorithm = PpoMax(Context(settings, prepared, make_engine(settings.engine)))
    for module in (algorithm.policy(), algorithm._critic, algorithm._reference, algorithm._reward):
        module.double()
    rule = SamplingRule(max_new_tokens=7, eos_id=EOS, pad_id=PAD, temperature=1.0)
    actor = Actor(algorithm.policy(), algorithm.engine, rule, 1)
    rollout = actor.rollout(PromptBatch(PROMPTS, ["helpful"] * 4, [""] * 4, list(range(4))))
    experience, _ = algorithm.experience(Material(rollout))
    module = algorithm.trainers[name].module
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in module.parameters():
            value.add_(0.02 * torch.randn(value.shape, generator=random, dtype=value.dtype))
    text = pad([[5, 6, 7, 8]], [[True] * 4], PAD)

    def total() -> Tensor:
        return sum(
            (loss() for loss in algorithm.losses(name, 0, experience, text, Tally())),
            start=torch.zeros(()),
        )

    module.zero_grad()
    total().backward()
    for key, value in list(module.named_parameters())[::5]:
        direction = torch.randn(value.shape, generator=random, dtype=value.dtype)
        assert value.grad is not None, key
        slope = float((value.grad * direction).sum())
        assert slope == pytest.approx(difference(value, direction, total), rel=1e-5, abs=1e-9), key


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


class Counting(PpoMax):
    """The reward is the number of tokens GOOD in the response."""

    def _rewards(self, batch: TokenBatch, below: Tensor | None) -> Tensor:
        return ((batch.input_ids == GOOD) & batch.target_mask).sum(dim=1).double().float()


def test_it_solves_a_bandit_of_counted_tokens(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALGORITHMS, "ppo-max", Counting)
    changes = {
        "ppo.iterations": 40, "ppo.rollouts": 32, "ppo.mini_batch": 16, "ppo.micro_batch": 16, "ppo.epochs": 2,
        "ppo.max_response_tokens": 6, "ppo.kl.coefficient": 0.01, "ppo.ptx": None, "ppo.optimizer.learning_rate": 3.0e-3,
        "ppo.samples_every": 20, "ppo.checkpoint_every": 100, "ppo.keep": "last",
    }  # fmt: skip
    loop.train(tiny_settings(changes), workspace)
    summary = json.loads(workspace.metrics("ppo").read_text())
    assert summary["reward_first"] < 1.0
    assert summary["reward_last"] > 5.4  # of 6
