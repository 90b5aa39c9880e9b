import pytest
import torch
from tiny import PAD, tiny_model
from torch import nn

from rlhf.batches.padding import TokenBatch, pad
from rlhf.models.action_values import QHead, load_q_model, moving_parts, polyak_update
from rlhf.models.backbone import hidden_states, unembed
from rlhf.models.saving import load_causal_lm
from rlhf.models.trainable import train_only_top
from rlhf.workspace import Workspace


def a_batch() -> TokenBatch:
    return pad([[2, 9, 30, 12, 1], [2, 11]], [[True] * 5, [True] * 2], PAD)


def random_head() -> QHead:
    head = QHead(16, 11)
    nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
    return head


def random_states(count: int = 5) -> torch.Tensor:
    return torch.randn(count, 16, generator=torch.Generator().manual_seed(2))


# -- the head -----------------------------------------------------------------------------------


@torch.no_grad()
def test_q_of_some_tokens_is_that_of_all_at_their_places() -> None:
    head, states = random_head(), random_states()
    tokens = torch.tensor([0, 10, 3, 3, 7])
    everything = head(states)
    assert everything.shape == (5, 11)
    for row, token in enumerate(tokens.tolist()):
        products = zip(states[row].tolist(), head.weight[token].tolist(), strict=True)
        expected = sum(state * weight for state, weight in products)
        assert float(everything[row, token]) == pytest.approx(expected, abs=1e-5)
        assert float(head.of_tokens(states, tokens)[row]) == pytest.approx(expected, abs=1e-5)


@torch.no_grad()
def test_q_is_not_rounded_to_bf16() -> None:
    head, states = random_head(), random_states()
    tokens = torch.tensor([0, 1, 2, 3, 4])
    expected = head(states), head.of_tokens(states, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found = head(states), head.of_tokens(states, tokens)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)
    # nor where the weights are in bf16 themselves
    head.bfloat16()
    assert head(states.bfloat16()).dtype == torch.float32
    assert head.of_tokens(states.bfloat16(), tokens).dtype == torch.float32


# -- a model ------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_model_starts_at_0_with_the_blocks_that_it_was_read_from(prepared: Workspace) -> None:
    model, origin = load_q_model(prepared.model("sft")), load_causal_lm(prepared.model("sft"))
    # whose unembedding is its embedding
    assert origin.get_output_embeddings().weight is origin.get_input_embeddings().weight
    hidden = hidden_states(model, a_batch())
    assert torch.equal(hidden, hidden_states(origin, a_batch()))
    q = unembed(model, hidden)
    assert q.shape == (2, 5, 64) and not q.any()


def test_its_head_learns_apart_from_the_embedding(prepared: Workspace) -> None:
    model = load_q_model(prepared.model("sft"))
    embedding = model.get_input_embeddings().weight.clone()
    unembed(model, hidden_states(model, a_batch())).sum().backward()
    head = model.get_output_embeddings().weight
    assert head.grad is not None and head.grad.any()
    with torch.no_grad():
        head -= head.grad
    model.tie_weights()
    assert torch.equal(model.get_input_embeddings().weight, embedding)
    assert model.get_output_embeddings().weight is head


def test_its_head_learns_with_the_top_layers(prepared: Workspace) -> None:
    model = load_q_model(prepared.model("sft"))
    train_only_top(model, 1)
    learning = {name for name, value in model.named_parameters() if value.requires_grad}
    assert "lm_head.weight" in learning and "model.embed_tokens.weight" not in learning


# -- a target network ---------------------------------------------------------------------------


@torch.no_grad()
def test_a_target_follows_by_hand() -> None:
    target, online = nn.Linear(1, 1), nn.Linear(1, 1)
    for module, weight, bias in ((target, 2.0, 0.0), (online, 4.0, 1.0)):
        module.weight.fill_(weight)
        module.bias.fill_(bias)
    polyak_update(target, online, 0.75)
    assert (float(target.weight), float(target.bias)) == (2.5, 0.25)
    polyak_update(target, online, 0.75)
    assert (float(target.weight), float(target.bias)) == (2.875, 0.4375)
    # the other one stays
    assert (float(online.weight), float(online.bias)) == (4.0, 1.0)
    polyak_update(target, online, 0.0)
    assert torch.equal(target.weight, online.weight)


def test_a_target_in_float32_follows_weights_in_bf16() -> None:
    target, online = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.constant_(target.weight, 1.0)
    nn.init.constant_(online.weight, 1.25)
    for _ in range(4):
        polyak_update(target, online, 0.995)
    # a step is 0.00125: bf16 has nothing between 1 and 1.0078
    assert float(target.weight.detach()) == pytest.approx(1.25 - 0.25 * 0.995**4, abs=1e-6)


def test_only_what_learns_moves() -> None:
    target, online = tiny_model(1), tiny_model(2)
    train_only_top(online, 1)
    learning = {name for name, value in online.named_parameters() if value.requires_grad}
    assert {name for name, _, _ in moving_parts(target, online)} == learning
    before = {name: value.clone() for name, value in target.named_parameters()}
    polyak_update(target, online, 0.5)
    moved = {
        name for name, value in target.named_parameters() if not torch.equal(value, before[name])
    }
    # the scales of the norms are 1 in both
    assert moved == {name for name in learning if "norm" not in name}
