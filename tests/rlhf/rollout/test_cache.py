import pytest
import torch
from tiny import EOS, PAD, tiny_model
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, PreTrainedModel

from rlhf.rollout.cache import read_prompts
from rlhf.rollout.sampler import SamplingRule, row_uniforms, sample

LENGTHS = [3, 12, 1, 7, 7, 30, 2, *range(4, 40)]


def padded(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(lengths)
    mask = torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]
    ids = torch.randint(5, 60, mask.shape, generator=torch.Generator().manual_seed(1))
    return ids.masked_fill(~mask, PAD), mask


@pytest.mark.parametrize("attention", ["eager", "grouped", "sdpa"])
@torch.no_grad()
def test_groups_give_what_each_prompt_gives_alone_and_the_next_token_sees_it(
    attention: str,
) -> None:
    model = tiny_model(seed=5, spread=0.2)  # 4 heads, 2 of keys
    model.set_attn_implementation(attention)
    ids, mask = padded(LENGTHS)
    last, cache = read_prompts(model, ids, mask, room=2)
    kept = torch.tensor([40, 1, 2, 3, 39, 5])  # two rows move, the others stay where they are
    cache.batch_select_indices(kept)
    for row, length in enumerate(LENGTHS):
        alone = model.base_model(input_ids=ids[row : row + 1, -length:]).last_hidden_state[0, -1]
        torch.testing.assert_close(last[row], alone, atol=1e-5, rtol=0)
    said = torch.tensor([[7, 8]]).expand(len(kept), 2)
    seen = mask[kept]
    for step in range(2):
        seen = torch.cat([seen, torch.ones(len(kept), 1, dtype=torch.bool)], dim=1)
        found = model.base_model(
            input_ids=said[:, step : step + 1],
            attention_mask=seen.long(),
            position_ids=seen.sum(dim=1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    for place, row in enumerate(kept.tolist()):
        whole = torch.cat([ids[row, -LENGTHS[row] :], said[0]])[None]
        torch.testing.assert_close(
            found[place],
            model.base_model(input_ids=whole).last_hidden_state[0, -1],
            atol=1e-5,
            rtol=0,
        )


def windowed() -> PreTrainedModel:
    torch.manual_seed(2)
    config = MistralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=6, initializer_range=0.3, pad_token_id=PAD, eos_token_id=EOS,
    )  # fmt: skip
    return MistralForCausalLM(config).eval()


def test_a_model_with_a_window_keeps_its_own_cache_and_says_the_same_in_any_batch() -> None:
    model, (ids, mask) = windowed(), padded([12, 5, 9, 3, 12])
    prompts = [row[own].tolist() for row, own in zip(ids, mask, strict=True)]
    assert type(read_prompts(model, ids, mask, 4)[1].layers[0]) is type(
        DynamicCache(config=model.config).layers[0]
    )
    numbers = torch.stack([row_uniforms(8, 1, row) for row in range(len(prompts))])
    said = sample(model, prompts, numbers, SamplingRule(8, EOS, PAD)).responses
    rule = SamplingRule(8, said[0][2], PAD)  # the first of five rows ends early
    together = sample(model, prompts, numbers, rule)
    for row, prompt in enumerate(prompts):
        alone = sample(model, [prompt], numbers[row : row + 1], rule)
        assert alone.responses[0] == together.responses[row]
        assert alone.logprobs[0] == pytest.approx(together.logprobs[row], abs=1e-5)
