import pytest
import torch
from tiny import EOS, PAD, tiny_model
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, PreTrainedModel

from rlhf.core.seeds import derive_seed
from rlhf.rollout.cache import read_prompts
from rlhf.rollout.local import row_uniforms, sample
from rlhf.rollout.sampler import SamplingRule

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
    # 4 heads, 2 of keys
    model = tiny_model(seed=5, std=0.2)
    model.set_attn_implementation(attention)
    ids, mask = padded(LENGTHS)
    last, cache = read_prompts(model, ids, mask, room=2)
    # two rows move, the others stay where they are
    selected = torch.tensor([40, 1, 2, 3, 39, 5])
    cache.batch_select_indices(selected)
    for row, length in enumerate(LENGTHS):
        alone = model.base_model(input_ids=ids[row : row + 1, -length:]).last_hidden_state[0, -1]
        torch.testing.assert_close(last[row], alone, atol=1e-5, rtol=0)

    new = [7, 8]
    seen = mask[selected]
    for token in new:
        seen = torch.cat([seen, torch.ones(len(selected), 1, dtype=torch.bool)], dim=1)
        found = model.base_model(
            input_ids=torch.full((len(selected), 1), token),
            attention_mask=seen.long(),
            position_ids=seen.sum(dim=1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
    for place, row in enumerate(selected.tolist()):
        sequence = torch.tensor([ids[row, -LENGTHS[row] :].tolist() + new])
        alone = model.base_model(input_ids=sequence).last_hidden_state[0, -1]
        torch.testing.assert_close(found[place], alone, atol=1e-5, rtol=0)


def windowed() -> PreTrainedModel:
    torch.manual_seed(2)
    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=6,
        initializer_range=0.3,
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    return MistralForCausalLM(config).eval()


def test_a_model_with_a_window_has_the_layers_that_transformers_gives_it() -> None:
    """They count for themselves what the window still holds."""
    model, (ids, mask) = windowed(), padded([12, 5, 9, 3, 12])
    _, cache = read_prompts(model, ids, mask, 4)
    expected = DynamicCache(config=model.config)
    assert [type(layer) for layer in cache.layers] == [type(layer) for layer in expected.layers]


def test_a_model_with_a_window_answers_the_same_in_any_batch() -> None:
    model, (ids, mask) = windowed(), padded([12, 5, 9, 3, 12])
    prompts = [row[shown].tolist() for row, shown in zip(ids, mask, strict=True)]
    numbers = torch.stack([row_uniforms(8, derive_seed(1, row)) for row in range(len(prompts))])
    first = sample(model, prompts, numbers, SamplingRule(8, EOS, PAD)).responses[0]
    # the first of five rows ends early
    rule = SamplingRule(8, first[2], PAD)
    together = sample(model, prompts, numbers, rule)
    for row, prompt in enumerate(prompts):
        alone = sample(model, [prompt], numbers[row : row + 1], rule)
        assert alone.responses[0] == together.responses[row]
        assert alone.logprobs[0] == pytest.approx(together.logprobs[row], abs=1e-5)
