"""LocalSampler: the policy itself is sampled, or in bf16 a copy of its weights."""

import copy

import torch
from tiny import EOS, PAD, tiny_model
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.engine import make_engine
from rlhf.models.saving import without_adapters
from rlhf.models.trainable import choose_trainable
from rlhf.rollout.local import LocalSampler, row_uniforms, sample
from rlhf.rollout.sampler import SamplingRule
from rlhf.settings.training import EngineSettings, Lora

RULE = SamplingRule(max_new_tokens=12, eos_id=EOS, pad_id=PAD)
PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41], [2, 50, 51, 52]]
SEEDS = list(range(10, 14))


def local_sampler(policy: PreTrainedModel, precision: str) -> LocalSampler:
    engine = make_engine(EngineSettings.model_validate({"threads": 1, "precision": precision}))
    return LocalSampler(policy, engine, RULE)


def seeded_rows() -> Tensor:
    return torch.stack([row_uniforms(12, seed) for seed in SEEDS])


@torch.no_grad()
def change(model: PreTrainedModel) -> None:
    for value in model.parameters():
        random = torch.Generator().manual_seed(1)
        value.copy_(torch.randn(value.shape, generator=random) * 0.2)


def test_it_draws_each_response_from_the_stream_of_its_seed() -> None:
    policy = tiny_model(5, std=0.2)
    expected = sample(policy, PROMPTS, seeded_rows(), RULE)
    assert local_sampler(policy, "fp32").sample(PROMPTS, SEEDS) == expected


def test_in_fp32_the_policy_itself_is_sampled() -> None:
    policy = tiny_model(5, std=0.2)
    sampler = local_sampler(policy, "fp32")
    change(policy)
    assert sampler.sample(PROMPTS, SEEDS) == sample(policy, PROMPTS, seeded_rows(), RULE)


def rounded_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy with weights in bf16; buffers, the rotary frequencies, stay in float32."""
    duplicate = copy.deepcopy(model)
    for value in duplicate.parameters():
        value.data = value.data.bfloat16()
    return duplicate


def test_in_bf16_a_copy_with_rounded_weights_is_sampled() -> None:
    """Its log-probabilities are to the bit those of a copy whose buffers are not rounded."""
    policy = tiny_model(5, std=0.2)
    found = local_sampler(policy, "bf16").sample(PROMPTS, SEEDS)
    numbers = seeded_rows()
    assert found == sample(rounded_weights(policy), PROMPTS, numbers, RULE)
    # which can be told from others
    assert found.logprobs != sample(policy, PROMPTS, numbers, RULE).logprobs
    everything = copy.deepcopy(policy).bfloat16()
    assert found.logprobs != sample(everything, PROMPTS, numbers, RULE).logprobs


def test_the_copy_follows_the_policy_once_refreshed() -> None:
    policy = tiny_model(5, std=0.2)
    sampler = local_sampler(policy, "bf16")
    before = sampler.sample(PROMPTS, SEEDS)
    change(policy)
    assert sampler.sample(PROMPTS, SEEDS) == before
    sampler.refresh()
    after = sample(rounded_weights(policy), PROMPTS, seeded_rows(), RULE)
    assert sampler.sample(PROMPTS, SEEDS) == after != before


def test_adapters_are_merged_into_the_copy() -> None:
    """Decoding runs no adapter: each would cost its own products at every token."""
    policy = tiny_model(5, std=0.2)
    choose_trainable(policy, None, Lora(rank=4, alpha=8.0), 1, "policy")
    sampler = local_sampler(policy, "bf16")
    for value in policy.parameters():
        if value.requires_grad:
            random = torch.Generator().manual_seed(1)
            value.data += torch.randn(value.shape, generator=random) * 0.2
    sampler.refresh()
    plain = rounded_weights(without_adapters(policy))
    assert sampler.sample(PROMPTS, SEEDS) == sample(plain, PROMPTS, seeded_rows(), RULE)


def test_the_policy_goes_on_learning_in_float32() -> None:
    policy = tiny_model(5, std=0.2)
    sampler = local_sampler(policy, "bf16")
    sampler.refresh()
    sampler.sample(PROMPTS, SEEDS)
    for value in policy.parameters():
        assert value.dtype == torch.float32 and value.requires_grad
