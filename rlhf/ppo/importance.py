"""Correction for a sampler that is not quite the policy: another engine, another precision."""

from torch import Tensor


def truncated_weights(logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """Truncated importance weights w = min(pi / mu, C) of tokens that the sampler mu drew, any shape.

    From log pi of the policy that the sampler stands for and log mu; they carry no gradient. A token's
    loss times w is, but for the cap, that of a token which pi drew. Ionides 2008, "Truncated
    importance sampling"; of RL with another engine's rollouts Yao et al. 2025, as in verl
    (`rollout_is: token`) and TRL (`vllm_importance_sampling_mode: token_truncate`).
    """
    return (logprobs - sampler_logprobs).detach().exp().clamp(max=cap)
