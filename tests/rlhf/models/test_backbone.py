import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import PAD, tiny_model
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
)

from rlhf.batches.padding import TokenBatch, pad, pad_responses
from rlhf.batches.pairs import pad_pairs
from rlhf.core.reach import window
from rlhf.models.backbone import (
    entropies,
    hidden_states,
    pair_hidden_states,
    position_ids,
    scatter_to_mask,
    shares_trunk,
    target_logits,
    target_tokens,
    token_logprobs,
    trunk_size,
    trunk_states,
)

PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41]]
RESPONSES = [[12, 13, 14, 1], [15, 1], [16]]


@pytest.fixture
def model() -> LlamaForCausalLM:
    return tiny_model(seed=5, std=0.2)


@pytest.fixture
def batch() -> TokenBatch:
    return pad_responses(PROMPTS, RESPONSES, PAD)


# -- a forward pass -----------------------------------------------------------------------------


def test_positions_count_real_tokens_on_either_side_of_padding() -> None:
    mask = torch.tensor([[True, True, True, False], [False, False, True, True]])
    assert position_ids(mask).tolist() == [[0, 1, 2, 2], [0, 0, 0, 1]]


@torch.no_grad()
def test_padding_changes_no_hidden_state(model: LlamaForCausalLM, batch: TokenBatch) -> None:
    # five more columns of some token that no mask shows
    garbage = (0, 5)
    wide = TokenBatch(
        nn.functional.pad(batch.input_ids, garbage, value=33),
        nn.functional.pad(batch.attention_mask, garbage, value=False),
        nn.functional.pad(batch.target_mask, garbage, value=False),
    )
    narrow, padded = hidden_states(model, batch), hidden_states(model, wide)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        ids = [*prompt, *response]
        alone = hidden_states(model, pad([ids], [[True] * len(ids)], PAD))[0]
        torch.testing.assert_close(narrow[row, : len(ids)], alone, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(padded[row, : len(ids)], alone, atol=1e-5, rtol=1e-5)


def test_packed_rows_have_the_states_and_gradients_of_padded_ones(
    model: LlamaForCausalLM, batch: TokenBatch
) -> None:
    def read(attention: str) -> tuple[Tensor, list[Tensor]]:
        model.set_attn_implementation(attention)
        states = hidden_states(model, batch)[batch.attention_mask]
        parameters = list(model.base_model.parameters())
        return states, list(torch.autograd.grad(states.pow(3).sum(), parameters))

    packed, packed_gradients = read("grouped")
    padded, padded_gradients = read("eager")
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    for one, other in zip(packed_gradients, padded_gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}
FAMILIES = {
    "llama": LlamaConfig(**SHAPE),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE, head_dim=8),
    # the longest row has 8 tokens
    "mistral, a window of 4": MistralConfig(**SHAPE, sliding_window=4),
    "mistral, a window of 8": MistralConfig(**SHAPE, sliding_window=8),
}


def on_the_left(batch: TokenBatch) -> TokenBatch:
    """The same rows with their padding in front."""
    shifts = (~batch.attention_mask).sum(dim=1).tolist()

    def shifted(values: Tensor) -> Tensor:
        return torch.stack([row.roll(by) for row, by in zip(values, shifts, strict=True)])

    parts = (batch.input_ids, batch.attention_mask, batch.target_mask)
    return TokenBatch(*(shifted(part) for part in parts))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_packed_rows_of_each_family_see_what_padded_ones_see(
    family: str, side: str, batch: TokenBatch
) -> None:
    """Padding on either side, and rows longer than a window."""
    rows = batch if side == "right" else on_the_left(batch)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(FAMILIES[family]).eval()
    model.set_attn_implementation("eager")
    padded = hidden_states(model, rows)[rows.attention_mask]
    model.set_attn_implementation("grouped")
    packed = hidden_states(model, rows)[rows.attention_mask]
    torch.testing.assert_close(packed, padded, atol=1e-4, rtol=1e-4)
    # row by row they are the same ones on both sides
    torch.testing.assert_close(packed, hidden_states(model, batch)[batch.attention_mask])


@torch.no_grad()
def test_nothing_is_computed_for_padding(model: LlamaForCausalLM, batch: TokenBatch) -> None:
    seen: list[int] = []
    for layer in model.base_model.layers:
        layer.mlp.register_forward_hook(
            lambda _, inputs, __: seen.append(inputs[0].shape[:-1].numel())
        )
    model.set_attn_implementation("grouped")
    states = hidden_states(model, batch)
    pairs = pad_pairs(PROMPTS, RESPONSES, [[33, 1], [17, 18, 19, 20, 1], [21]], PAD)
    pair_hidden_states(model, pairs)
    # 12 tokens of prompts, 7 of responses, 8 of other ones, in two layers
    assert seen == [19, 19, 27, 27]
    assert not states[~batch.attention_mask].any()


@pytest.mark.parametrize("attention", ["eager", "grouped", "sdpa"])
@torch.no_grad()
def test_each_answer_of_a_pair_has_the_states_of_a_row_of_its_own(
    model: LlamaForCausalLM, attention: str
) -> None:
    model.set_attn_implementation(attention)
    others = [[33, 1], [17, 18, 19, 20, 1], [21, 22, 1]]
    found = pair_hidden_states(model, pad_pairs(PROMPTS, RESPONSES, others, PAD))
    for row, (prompt, chosen, rejected) in enumerate(zip(PROMPTS, RESPONSES, others, strict=True)):
        first, second = (
            model.base_model(input_ids=torch.tensor([[*prompt, *answer]])).last_hidden_state[0]
            for answer in (chosen, rejected)
        )
        joined = len(prompt) + len(chosen)
        with_chosen = found[row, :joined]
        of_rejected = found[row, joined : joined + len(rejected)]
        torch.testing.assert_close(with_chosen, first, atol=1e-5, rtol=0)
        torch.testing.assert_close(of_rejected, second[len(prompt) :], atol=1e-5, rtol=0)


@torch.no_grad()
def test_pairs_longer_than_a_window_get_rows_of_their_own() -> None:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.2,
        sliding_window=5,
    )
    mistral = MistralForCausalLM(config).eval()
    # the longest prompt and answer have 8 tokens together
    others = [[33, 1], [17, 18, 19, 20, 1], [21]]
    found = pair_hidden_states(mistral, pad_pairs(PROMPTS, RESPONSES, others, PAD))
    for row, (prompt, chosen, rejected) in enumerate(zip(PROMPTS, RESPONSES, others, strict=True)):
        first, second = (
            mistral.base_model(input_ids=torch.tensor([[*prompt, *answer]])).last_hidden_state[0]
            for answer in (chosen, rejected)
        )
        joined = len(prompt) + len(chosen)
        torch.testing.assert_close(found[row, :joined], first, atol=1e-5, rtol=0)
        behind = found[row, joined : joined + len(rejected)]
        torch.testing.assert_close(behind, second[len(prompt) :], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("changes", "reach"),
    [
        ({"sliding_window": 7}, 7),
        ({"sliding_window": 0}, None),
        ({"sliding_window": None}, None),
        ({"sliding_window": 7, "use_sliding_window": False}, None),
        ({"sliding_window": 7, "layer_types": ["full_attention"]}, None),
        ({"sliding_window": 7, "layer_types": ["full_attention", "sliding_attention"]}, 7),
        ({"window_size": 9, "attention_layers": ["global", "local"]}, 9),
        ({"window_size": 9, "attention_layers": ["global"]}, None),
    ],
)
def test_a_window_is_read_as_transformers_reads_it(
    changes: dict[str, object], reach: int | None
) -> None:
    config = LlamaConfig()
    for name, value in changes.items():
        setattr(config, name, value)
    assert window(config) == reach


# -- what is read off the hidden states ---------------------------------------------------------


@torch.no_grad()
def naive_logprobs(model: LlamaForCausalLM, temperature: float) -> list[float]:
    """One sequence at a time: transformers' own forward, a log-softmax, one token at a time."""
    values = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        logits = model(input_ids=torch.tensor([[*prompt, *response]])).logits[0]
        logprobs = (logits / temperature).log_softmax(dim=1)
        start = len(prompt) - 1
        values += [float(logprobs[start + t, token]) for t, token in enumerate(response)]
    return values


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logits_and_targets_are_aligned(
    model: LlamaForCausalLM, batch: TokenBatch, temperature: float
) -> None:
    with torch.no_grad():
        logits = target_logits(model, hidden_states(model, batch), batch, temperature)
    tokens = target_tokens(batch)
    assert tokens.tolist() == [token for response in RESPONSES for token in response]
    assert logits.dtype == torch.float32
    expected = naive_logprobs(model, temperature)
    assert token_logprobs(logits, tokens).tolist() == pytest.approx(expected, abs=1e-5)


def test_entropies_and_probabilities_by_hand() -> None:
    three = float(torch.tensor(3.0).log())
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, three, -1e9, -1e9]])
    # uniform over four: ln 4; probabilities 1/4 and 3/4: 0.562335
    assert entropies(logits).tolist() == pytest.approx([1.386294, 0.562335], abs=1e-5)
    chosen = token_logprobs(logits, torch.tensor([2, 1])).exp()
    assert chosen.tolist() == pytest.approx([0.25, 0.75])


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=4))
def test_scattering_is_undone_by_the_mask(rows: list[list[bool]]) -> None:
    mask = torch.tensor(rows)
    values = torch.arange(1.0, 1.0 + int(mask.sum()))
    placed = scatter_to_mask(values, mask)
    assert torch.equal(placed[mask], values)
    assert not placed[~mask].any()


def test_scattering_keeps_gradients() -> None:
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    mask = torch.tensor([[False, True], [True, False]])
    weights: Tensor = torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    (scatter_to_mask(values, mask) * weights).sum().backward()
    assert values.grad is not None and values.grad.tolist() == [4.0, 5.0]


# -- the trunk ----------------------------------------------------------------------------------


def on_trunk(model: LlamaForCausalLM, batch: TokenBatch, layers: int) -> TokenBatch:
    """The batch with the states below the top `layers` blocks."""
    blocks = trunk_size(model, layers)
    states = trunk_states(model, blocks, batch)
    return TokenBatch(
        batch.input_ids, batch.attention_mask, batch.target_mask, states, trunk_blocks=blocks
    )


@torch.no_grad()
@pytest.mark.parametrize("layers", [1, 2])
def test_trunk_and_top_make_the_whole(
    model: LlamaForCausalLM, batch: TokenBatch, layers: int
) -> None:
    assert trunk_size(model, layers) == 2 - layers
    found = hidden_states(model, on_trunk(model, batch, layers))
    assert torch.equal(found, hidden_states(model, batch))


@torch.no_grad()
def test_the_model_itself_stays_as_it_was(model: LlamaForCausalLM, batch: TokenBatch) -> None:
    before = model(input_ids=batch.input_ids).logits
    hidden_states(model, on_trunk(model, batch, 1))
    assert len(model.base_model.layers) == 2
    assert torch.equal(model(input_ids=batch.input_ids).logits, before)


def test_gradients_reach_the_top_alone(model: LlamaForCausalLM, batch: TokenBatch) -> None:
    hidden_states(model, on_trunk(model, batch, 1)).sum().backward()
    named = model.base_model.named_parameters()
    reached = {name for name, value in named if value.grad is not None}
    assert reached
    assert all(name.startswith(("layers.1.", "norm.")) for name in reached)


@torch.no_grad()
def test_a_trunk_is_shared_only_if_equal_to_the_bit() -> None:
    first = tiny_model(5)
    second = copy.deepcopy(first)
    second.get_parameter("model.layers.1.mlp.up_proj.weight").add_(1.0)
    second.get_parameter("model.norm.weight").add_(1.0)
    # what differs is above
    assert shares_trunk(first, second, 1)

    second.get_parameter("model.layers.0.mlp.up_proj.weight")[0, 0] += 1e-6
    assert not shares_trunk(first, second, 1)
    # below two layers there are the embeddings alone
    assert shares_trunk(first, second, 2)


def test_blocks_of_several_types_share_no_trunk() -> None:
    """A block's type goes by its place, which a part of the model would shift."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        use_sliding_window=True,
        # longer than the text by which parts and whole are compared
        sliding_window=64,
        layer_types=["full_attention", "sliding_attention"],
    )
    mixed = Qwen2ForCausalLM(config)
    assert not shares_trunk(mixed, mixed, 1)
