"""Losses of AIHF by hand: one prompt, three responses, whose induced policy is known."""

import math
from collections.abc import Callable

import pytest
import torch
import two_tokens
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import log_softmax

from rlhf.ppo.aihf import bradley_terry_loss, demonstration_loss
from rlhf.ppo.dpo import implicit_rewards
from rlhf.ppo.groups import reward_to_go
from rlhf.ppo.losses import surrogate
from rlhf.ppo.rewards import final_score, kl_penalty

BETA = 0.5
REFERENCE = [0.5, 0.3, 0.2]
REWARDS = [0.2, 0.0, -0.1]
# pi_ref exp(R / beta) / Z
INDUCED = [0.616631, 0.248004, 0.135366]

NUMBERS = st.floats(-5, 5)


def tensor(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def induced(rewards: Tensor) -> Tensor:
    """The policy that maximises E[R] - beta KL(pi || pi_ref), by its closed form."""
    return (tensor(REFERENCE).log() + rewards / BETA).softmax(dim=0)


def slopes(loss: Callable[[Tensor], Tensor], at: Tensor) -> list[float]:
    free = at.clone().requires_grad_()
    loss(free).backward()
    assert free.grad is not None
    return [float(value) for value in free.grad]


def finite_differences(function: Callable[[Tensor], float], at: Tensor) -> list[float]:
    found = []
    for place in range(len(at)):
        step = torch.zeros_like(at)
        step[place] = 1e-5
        found.append((function(at + step) - function(at - step)) / 2e-5)
    return found


# -- the paper's form ---------------------------------------------------------------------------


def expected_demonstration_loss(rewards: Tensor, policy: Tensor, demonstration: int) -> Tensor:
    """Over the responses of a policy that is given."""
    losses = demonstration_loss(rewards[demonstration] - rewards, BETA)
    return (policy * losses).sum()


def log_likelihood(rewards: Tensor, demonstration: int) -> float:
    """L1 = log pi_R of the demonstration, in plain Python."""
    terms = [p * math.exp(r / BETA) for p, r in zip(REFERENCE, rewards.tolist(), strict=True)]
    return math.log(terms[demonstration] / sum(terms))


def test_the_induced_policy_by_hand() -> None:
    terms = [p * math.exp(r / BETA) for p, r in zip(REFERENCE, REWARDS, strict=True)]
    assert sum(terms) == pytest.approx(1.209658, abs=1e-6)
    assert [term / sum(terms) for term in terms] == pytest.approx(INDUCED, abs=1e-6)
    assert induced(tensor(REWARDS)).tolist() == pytest.approx(INDUCED, abs=1e-6)


def test_the_demonstration_s_loss_has_the_gradient_of_its_likelihood() -> None:
    """Though it knows nothing of pi_R but its responses."""
    rewards = tensor(REWARDS)
    assert log_likelihood(rewards, 2) == pytest.approx(-1.999776, abs=1e-6)
    policy = induced(rewards)
    found = slopes(lambda free: expected_demonstration_loss(free, policy, 2), rewards)
    by_hand = [-1.233261, -0.496008, 1.729269]
    assert [-value for value in found] == pytest.approx(by_hand, abs=1e-6)
    # the likelihood itself, through the policy that moves with R
    differences = finite_differences(lambda free: log_likelihood(free, 2), rewards)
    assert differences == pytest.approx(by_hand, abs=1e-6)


def test_responses_of_another_policy_bias_it() -> None:
    rewards = tensor(REWARDS)
    stale = tensor(REFERENCE)
    found = slopes(lambda free: expected_demonstration_loss(free, stale, 2), rewards)
    assert [-value for value in found] == pytest.approx([-1.0, -0.6, 1.6], abs=1e-6)


def test_the_pair_s_loss_by_hand() -> None:
    rewards = tensor(REWARDS)
    pair = lambda free: bradley_terry_loss(free[0] - free[1])  # noqa: E731
    assert float(pair(rewards)) == pytest.approx(0.598139, abs=1e-6)
    found = slopes(pair, rewards)
    assert [-value for value in found] == pytest.approx([0.450166, -0.450166, 0], abs=1e-6)


def test_the_sum_of_both_by_hand() -> None:
    rewards = tensor(REWARDS)
    policy = induced(rewards)

    def both(free: Tensor) -> Tensor:
        pair = bradley_terry_loss(free[0] - free[1])
        return expected_demonstration_loss(free, policy, 2) + pair

    by_hand = [-0.783095, -0.946174, 1.729269]
    assert [-value for value in slopes(both, rewards)] == pytest.approx(by_hand, abs=1e-6)

    def objective(free: Tensor) -> float:
        margin = float(free[0] - free[1])
        return log_likelihood(free, 2) - math.log(1 + math.exp(-margin))

    assert finite_differences(objective, rewards) == pytest.approx(by_hand, abs=1e-6)


def test_it_is_linear_and_has_no_bound() -> None:
    margins = tensor([0.0, 1.0, 1000.0])
    assert demonstration_loss(margins, 0.5).tolist() == [0.0, -2.0, -2000.0]
    assert demonstration_loss(margins, 2.0).tolist() == [0.0, -0.5, -500.0]


# -- the form of the code -----------------------------------------------------------------------


def test_the_code_s_form_by_hand() -> None:
    """The demonstration y_3 is preferred to a sample y_1, by the scores at the end."""
    rewards = tensor(REWARDS)
    form = lambda free: bradley_terry_loss(free[2] - free[0])  # noqa: E731
    assert float(form(rewards)) == pytest.approx(0.854355, abs=1e-6)
    assert slopes(form, rewards) == pytest.approx([0.574443, 0.0, -0.574443], abs=1e-6)
    # it is bounded: nothing is left to gain once the demonstration is far above
    assert float(bradley_terry_loss(tensor([1000.0]))) == pytest.approx(0.0, abs=1e-9)


def test_the_code_s_mean_over_positions_by_hand() -> None:
    """A score at each position, and their pairs one by one: the code's form in full, ours is the last."""
    losses = bradley_terry_loss(tensor([0.1, 0.3]) - tensor([0.2, 0.0]))
    assert losses.tolist() == pytest.approx([0.744397, 0.554355], abs=1e-6)
    assert float(losses.mean()) == pytest.approx(0.649376, abs=1e-6)


@given(NUMBERS)
def test_it_equals_the_logistic_function_in_plain_python(margin: float) -> None:
    found = float(bradley_terry_loss(tensor([margin])))
    assert found == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-9)


# -- without a reward model ---------------------------------------------------------------------


@given(NUMBERS, st.floats(0.05, 2))
def test_implicit_rewards_are_those_that_induce_the_policy(shift: float, beta: float) -> None:
    """Up to a constant: pi_ref exp(R / beta) / Z is the policy again."""
    policy = log_softmax(tensor([0.4, -shift, shift]), dim=0)
    reference = tensor(REFERENCE).log()
    rewards = implicit_rewards(policy, reference, beta)
    again = log_softmax(reference + rewards / beta, dim=0)
    torch.testing.assert_close(again, policy)


# -- the inner problem --------------------------------------------------------------------------


def test_the_policy_half_reaches_the_optimum_of_the_fixture() -> None:
    """PPO's token rewards and surrogate over all four responses: pi_ref exp(R / beta) / Z."""
    mask = torch.ones((4, 2), dtype=torch.bool)
    reference = two_tokens.token_logprobs(tensor([0.5, 0.5, 0.5]))
    logits = tensor([0.0, 0.0, 0.0])
    for _ in range(400):
        free = logits.clone().requires_grad_()
        logprobs = two_tokens.token_logprobs(free.sigmoid())
        old = logprobs.detach()
        paid = final_score(two_tokens.REWARDS, mask)
        paid = paid + kl_penalty(old - reference, mask, two_tokens.BETA)
        losses, _ = surrogate(logprobs, old, reward_to_go(paid, mask), 0.2)
        # the expectation over what the policy samples
        (old.sum(dim=1).exp()[:, None] * losses).sum().backward()
        assert free.grad is not None
        logits -= 2.0 * free.grad
    found = two_tokens.token_logprobs(logits.sigmoid()).sum(dim=1).exp()
    torch.testing.assert_close(logits.sigmoid(), two_tokens.OPTIMUM, atol=1e-3, rtol=0)
    assert found.tolist() == pytest.approx(two_tokens.PROBABILITIES, abs=1e-3)


# -- two time scales ----------------------------------------------------------------------------

# where the demonstrations come from, and how often y_1 is preferred to y_2
DEMONSTRATED = [0.2, 0.2, 0.6]
PREFERRED = 0.8


def test_reward_and_policy_in_turns_come_to_the_optimum_of_both_levels() -> None:
    """A table of rewards and one of logits; small steps of the reward, larger ones of the policy."""
    reference = tensor(REFERENCE).log()
    rewards = tensor([0.0, 0.0, 0.0])
    logits = reference.clone()
    demonstrated = tensor(DEMONSTRATED)
    for _ in range(3000):
        # 1. one small step of the reward, with the policy as it is
        policy = logits.softmax(dim=0)
        free = rewards.clone().requires_grad_()
        table = demonstration_loss(free[:, None] - free[None], BETA)
        pairs = bradley_terry_loss(torch.stack([free[0] - free[1], free[1] - free[0]]))
        loss = demonstrated @ table @ policy + pairs @ tensor([PREFERRED, 1 - PREFERRED])
        loss.backward()
        assert free.grad is not None
        rewards -= 0.02 * free.grad

        # 2. some steps of the policy on E[R] - beta KL
        for _ in range(5):
            free = logits.clone().requires_grad_()
            logprobs = log_softmax(free, dim=0)
            objective = (logprobs.exp() * (rewards - BETA * (logprobs - reference))).sum()
            objective.backward()
            assert free.grad is not None
            logits += 1.0 * free.grad

    # the inner level: the policy is the one that the reward induces
    torch.testing.assert_close(logits.softmax(dim=0), induced(rewards), atol=1e-3, rtol=0)

    # the outer level: no reward has a better likelihood of demonstrations and pairs
    def objective_of(table: Tensor) -> float:
        parts = [p * log_likelihood(table, place) for place, p in enumerate(DEMONSTRATED)]
        margin = float(table[0] - table[1])
        won, lost = -math.log1p(math.exp(-margin)), -math.log1p(math.exp(margin))
        return sum(parts) + PREFERRED * won + (1 - PREFERRED) * lost

    assert finite_differences(objective_of, rewards) == pytest.approx([0, 0, 0], abs=1e-3)
    # the pairs pull y_1 above what was demonstrated, which weighed it as y_2
    first, second, third = induced(rewards).tolist()
    assert first > 0.21 and second < 0.19 and third == pytest.approx(0.6, abs=1e-3)
