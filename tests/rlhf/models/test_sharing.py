"""Roles with adapters: one backbone in memory for those of equal weights, and what each still is."""

from functools import partial

import pytest
import torch
from tiny import PAD, copy_workspace, moved_top, tiny_model, tiny_settings, tiny_tokenizer
from torch import Tensor, nn

from rlhf.batches.padding import TokenBatch, pad_responses
from rlhf.engine.single import TorchEngine
from rlhf.models.backbone import target_tokens, token_logprobs
from rlhf.models.heads import load_scalar_model, new_scalar_model, save_scalar_model
from rlhf.models.roles import Models
from rlhf.models.saving import load_causal_lm
from rlhf.settings.training import EngineSettings, Lora
from rlhf.workspace import Workspace

LORA = Lora(rank=4, alpha=8.0)
PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41], [2, 50, 51]]
RESPONSES = [[12, 13, 14, 1], [15, 1], [16], [17, 18, 1]]
OPTIMIZER = tiny_settings({"ppo.optimizer.learning_rate": 1e-2}).ppo.optimizer
ROLES = ("policy", "critic", "reference", "reward")


@pytest.fixture(scope="module")
def own_reward(prepared: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace whose reward model differs from its SFT model in the upper block, as after training."""
    workspace = copy_workspace(prepared, tmp_path_factory.mktemp("own-reward"))
    model = new_scalar_model(workspace.model("sft"), 2, "reward")
    model.lm = moved_top(workspace.model("sft"))
    save_scalar_model(model, tiny_tokenizer(), workspace.model("reward"), "reward", 0.5)
    return workspace


@pytest.fixture
def batch() -> TokenBatch:
    return pad_responses(PROMPTS, RESPONSES, PAD)


def make_models(
    workspace: Workspace, lora: Lora | None = LORA, layers: int | None = None, **engine: object
) -> Models:
    settings = EngineSettings.model_validate({"threads": 1, **engine})
    models = Models(TorchEngine(settings), layers, lora, seed=1)
    models.train("policy", load_causal_lm(workspace.model("sft")), OPTIMIZER, 10)
    models.train("critic", load_scalar_model(workspace.model("reward")), OPTIMIZER, 10)
    models.freeze("reference", load_causal_lm(workspace.model("sft")))
    models.freeze("reward", load_scalar_model(workspace.model("reward")))
    return models


def weights(*modules: nn.Module) -> dict[int, int]:
    """The numbers in memory of all parameters of some models, by where they lie."""
    return {value.data_ptr(): value.numel() for module in modules for value in module.parameters()}


def size_of(models: Models, *roles: str) -> int:
    return sum(weights(*(models[role] for role in roles)).values())


def frozen_size(models: Models, *roles: str) -> int:
    values = [value for role in roles for value in models[role].parameters()]
    learning = {value.data_ptr() for value in values if value.requires_grad}
    held = weights(*(models[role] for role in roles))
    return sum(numel for place, numel in held.items() if place not in learning)


@torch.no_grad()
def results(models: Models, batch: TokenBatch) -> dict[str, Tensor]:
    return {
        "policy": models.target_logits("policy", batch),
        "reference": models.target_logits("reference", batch),
        "critic": models.values("critic", batch),
        "reward": models.scores("reward", batch),
    }


def learn(models: Models, batch: TokenBatch, steps: int = 3) -> None:
    """Steps of policy and critic."""

    def policy() -> Tensor:
        logits = models.target_logits("policy", batch)
        return -token_logprobs(logits, target_tokens(batch)).mean()

    def critic() -> Tensor:
        return (models.values("critic", batch) - 1).square().mean()

    for _ in range(steps):
        models.trainers["policy"].step([policy])
        models.trainers["critic"].step([critic])


# -- memory ----------------------------------------------------------------------------------------


def test_policy_and_reference_have_one_backbone_critic_and_reward_another(
    own_reward: Workspace,
) -> None:
    models = make_models(own_reward)
    backbone = sum(value.numel() for value in tiny_model().parameters())
    assert frozen_size(models, "policy", "reference") == backbone
    head = sum(value.numel() for value in models["critic"].get_submodule("head").parameters())
    # each has a head of its own: the critic's learns
    assert frozen_size(models, "critic", "reward") == backbone + head
    # and of the two backbones only what differs is there twice: the upper block
    upper = sum(value.numel() for value in tiny_model().model.layers[1].parameters())
    assert frozen_size(models, *ROLES) == backbone + upper + head


def test_without_adapters_each_role_has_its_own(own_reward: Workspace) -> None:
    models = make_models(own_reward, lora=None)
    assert size_of(models, *ROLES) == sum(size_of(models, role) for role in ROLES)


def test_where_all_weights_are_equal_one_backbone_serves_all(prepared: Workspace) -> None:
    """The stand-in for a reward model is the SFT model with a head."""
    models = make_models(prepared)
    backbone = sum(value.numel() for value in tiny_model().parameters())
    head = sum(value.numel() for value in models["reward"].get_submodule("head").parameters())
    assert frozen_size(models, *ROLES) == backbone + head


def test_models_of_another_origin_share_nothing(prepared: Workspace) -> None:
    models = make_models(prepared)
    before = size_of(models, *ROLES)
    models.freeze("other", load_causal_lm(prepared.model("base")))
    own = size_of(models, "other")
    norms = {name for name, _ in tiny_model().named_parameters() if "norm" in name}
    # fresh norms are ones everywhere
    equal = sum(tiny_model().get_parameter(name).numel() for name in norms)
    assert size_of(models, *ROLES, "other") == before + own - equal


# -- what each is ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [None, 1])
def test_before_anything_is_learnt_all_is_as_without_adapters(
    own_reward: Workspace, batch: TokenBatch, layers: int | None
) -> None:
    found = results(make_models(own_reward, layers=layers), batch)
    for role, expected in results(make_models(own_reward, None), batch).items():
        assert torch.equal(found[role], expected), role


@pytest.mark.parametrize("recompute", [False, True])
def test_what_does_not_learn_stays_while_the_others_move(
    own_reward: Workspace, batch: TokenBatch, recompute: bool
) -> None:
    models = make_models(own_reward, gradient_checkpointing=recompute)
    before = results(models, batch)
    kept = {
        (role, name): value.clone()
        for role in ROLES
        for name, value in models[role].named_parameters()
    }
    learn(models, batch)
    after = results(models, batch)
    for role in ("reference", "reward"):
        assert torch.equal(after[role], before[role]), role
    for role in ("policy", "critic"):
        assert not torch.allclose(after[role], before[role], atol=1e-2), role
    for role in ROLES:
        for name, value in models[role].named_parameters():
            moved = not torch.equal(value, kept[role, name])
            own = ".lora_" in name or (role == "critic" and name.startswith("head."))
            assert moved == (own and role in models.trainers), (role, name)


def test_recomputing_changes_no_number(own_reward: Workspace, batch: TokenBatch) -> None:
    found = []
    for recompute in (False, True):
        models = make_models(own_reward, gradient_checkpointing=recompute)
        learn(models, batch)
        found.append(results(models, batch))
    for role in ROLES:
        torch.testing.assert_close(found[0][role], found[1][role], atol=1e-6, rtol=1e-6)


def test_sharing_changes_no_number(
    own_reward: Workspace, batch: TokenBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = make_models(own_reward)
    with monkeypatch.context() as patch:
        patch.setattr(Models, "_share_weights", lambda *_: None)
        separate = make_models(own_reward)
    assert size_of(separate, *ROLES) == sum(size_of(separate, role) for role in ROLES)
    for models in (shared, separate):
        learn(models, batch)
    one, two = results(shared, batch), results(separate, batch)
    for role in ROLES:
        assert torch.equal(one[role], two[role]), role


def test_a_trunk_below_the_adapters_is_shared_too(own_reward: Workspace, batch: TokenBatch) -> None:
    """With trainable_layers, its states are computed once for all roles."""
    models = make_models(own_reward, layers=1)
    models.share_trunk()
    learn(models, batch)
    on_trunk = models.with_trunk_states(batch, 4)
    assert on_trunk.trunk_states is not None
    one, two = results(models, batch), results(models, on_trunk)
    for role in ROLES:
        torch.testing.assert_close(one[role], two[role], atol=1e-6, rtol=1e-6)


# -- dropout ---------------------------------------------------------------------------------------


def test_dropout_acts_in_steps_alone_and_from_a_stream_that_a_resumed_run_has_again(
    own_reward: Workspace, batch: TokenBatch
) -> None:
    """Outside of steps a model is the same function each time; a step's masks go by its number."""

    def loss(models: Models, seen: list[float]) -> Tensor:
        logits = models.target_logits("policy", batch)
        value = -token_logprobs(logits, target_tokens(batch)).mean()
        seen.append(float(value.detach()))
        return value

    found = []
    for draws in (0, 5):
        torch.manual_seed(7)
        models = make_models(own_reward, Lora(rank=4, alpha=8.0, dropout=0.5))
        learn(models, batch)
        torch.rand(draws)
        seen: list[float] = []
        before, state = results(models, batch)["policy"], torch.get_rng_state()
        assert torch.equal(results(models, batch)["policy"], before)
        # two micro-batches: two masks
        models.trainers["policy"].step([partial(loss, models, seen)] * 2)
        assert torch.equal(torch.get_rng_state(), state)
        assert seen[0] != seen[1]
        found.append(seen)
    assert found[0] == found[1]
