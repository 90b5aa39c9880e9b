import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.ppo.kl import Estimator, kl_estimate

LOGPROBS = st.floats(-20, 0)


def test_by_hand() -> None:
    # pi = 0.5, reference = 0.25: the log-ratio is ln 2
    policy, reference = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    assert float(kl_estimate(policy, reference, "k1")) == pytest.approx(math.log(2))
    assert float(kl_estimate(policy, reference, "k2")) == pytest.approx(math.log(2) ** 2 / 2)
    assert float(kl_estimate(policy, reference, "k3")) == pytest.approx(0.5 - 1 + math.log(2))


@given(LOGPROBS, LOGPROBS)
def test_k2_and_k3_are_never_negative_and_zero_where_the_models_agree(
    policy: float, reference: float
) -> None:
    one, other = (torch.tensor([value], dtype=torch.float64) for value in (policy, reference))
    for estimator in ("k2", "k3"):
        assert float(kl_estimate(one, other, estimator)) >= -1e-12
        assert float(kl_estimate(one, one, estimator)) == 0.0


@given(st.integers(0, 1000))
def test_k1_and_k3_are_unbiased(seed: int) -> None:
    """Their mean under the policy, taken exactly over all tokens, is the divergence itself.

    That of k2 is not.
    """
    random = torch.Generator().manual_seed(seed)
    policy, reference = (
        torch.randn(6, generator=random, dtype=torch.float64).log_softmax(0) for _ in range(2)
    )
    kl_div = torch.nn.functional.kl_div
    divergence = float(kl_div(reference, policy, log_target=True, reduction="sum"))
    for estimator in ("k1", "k3"):
        mean = float((policy.exp() * kl_estimate(policy, reference, estimator)).sum())
        assert mean == pytest.approx(divergence, abs=1e-12)
    biased = float((policy.exp() * kl_estimate(policy, reference, "k2")).sum())
    assert abs(biased - divergence) > 1e-6


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_keeps_the_shape(estimator: Estimator) -> None:
    values = torch.randn(3, 5)
    assert kl_estimate(values, values * 2, estimator).shape == (3, 5)
