"""Models by role: what an algorithm asks of each, with and without a shared trunk."""

from pathlib import Path

import pytest
import torch
from tiny import PAD, VOCABULARY, same_models, tiny_settings, tiny_tokenizer
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from rlhf.batches.padding import TokenBatch, pad_responses
from rlhf.common.errors import ModelError
from rlhf.engine.single import TorchEngine, TorchTrainer
from rlhf.models.backbone import target_tokens, token_logprobs
from rlhf.models.heads import ScalarModel, load_scalar_model, new_scalar_model
from rlhf.models.roles import Models, language_model
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.settings.training import EngineSettings
from rlhf.workspace import Workspace

PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41], [2, 50, 51]]
RESPONSES = [[12, 13, 14, 1], [15, 1], [16], [17, 18, 1]]
OPTIMIZER = tiny_settings().ppo.optimizer


class SecondProcess(TorchEngine):
    """One that writes nothing."""

    rank = 1
    world_size = 2


class PartedEngine(TorchEngine):
    """One whose models are never whole, as under ZeRO-3."""

    whole_weights = False


def make_models(
    workspace: Workspace, layers: int | None = 1, engine: TorchEngine | None = None
) -> Models:
    """Policy and critic that learn in their top layers, and two that are only read."""
    models = Models(engine or TorchEngine(EngineSettings(threads=1)), layers)
    models.train("policy", load_causal_lm(workspace.model("sft")), OPTIMIZER, 10)
    models.train("critic", load_scalar_model(workspace.model("reward")), OPTIMIZER, 20)
    models.freeze("reference", load_causal_lm(workspace.model("sft")))
    models.freeze("reward", load_scalar_model(workspace.model("reward")))
    return models


@pytest.fixture
def models(prepared: Workspace) -> Models:
    return make_models(prepared)


@pytest.fixture
def batch() -> TokenBatch:
    return pad_responses(PROMPTS, RESPONSES, PAD)


# -- roles --------------------------------------------------------------------------------------


def test_a_role_is_trained_or_frozen(models: Models) -> None:
    assert models.trainers.keys() == {"policy", "critic"}
    for role, steps in (("policy", 10), ("critic", 20)):
        trainer = models.trainers[role]
        assert isinstance(trainer, TorchTrainer)
        assert trainer.module is models[role] and trainer.total_steps == steps
    for role in ("reference", "reward"):
        module = models[role]
        assert not any(value.requires_grad for value in module.parameters())
        assert not module.training


def test_what_learns_does_so_in_its_top_layers_and_its_head(models: Models) -> None:
    for role in ("policy", "critic"):
        module = models[role]
        learning = {name for name, value in module.named_parameters() if value.requires_grad}
        tops = ("model.layers.1.", "model.norm.", "lm.model.layers.1.", "lm.model.norm.", "head.")
        assert learning and all(name.startswith(tops) for name in learning)
    assert models["critic"].get_parameter("head.weight").requires_grad


def test_without_a_number_of_layers_everything_learns(prepared: Workspace) -> None:
    models = make_models(prepared, layers=None)
    for role in ("policy", "critic"):
        assert all(value.requires_grad for value in models[role].parameters())


def test_more_layers_than_there_are_is_refused(prepared: Workspace) -> None:
    with pytest.raises(ModelError, match="trainable_layers 3: the model has 2 layers"):
        make_models(prepared, layers=3)


def test_a_language_model_is_had_with_or_without_a_head(models: Models) -> None:
    critic = models["critic"]
    assert isinstance(critic, ScalarModel)
    assert models.language_model("critic") is critic.lm is language_model(critic)
    assert models.language_model("policy") is models["policy"]


def test_a_role_that_is_taken_is_an_error(prepared: Workspace, models: Models) -> None:
    """Else the trainer and the model of a role would be two."""
    other = load_causal_lm(prepared.model("base"))
    for role in ("policy", "reference"):
        before = models[role]
        with pytest.raises(ValueError, match=f"role '{role}' is taken"):
            models.freeze(role, other)
        with pytest.raises(ValueError, match=f"role '{role}' is taken"):
            models.train(role, other, OPTIMIZER, 10)
        assert models[role] is before


def test_an_unknown_role_is_an_error(models: Models) -> None:
    with pytest.raises(KeyError, match="judge"):
        models["judge"]


# -- forward passes -----------------------------------------------------------------------------


@torch.no_grad()
def test_logits_values_and_scores_are_those_of_each_sequence_alone(
    models: Models, batch: TokenBatch
) -> None:
    logits = models.target_logits("policy", batch, temperature=0.7)
    logprobs = token_logprobs(logits, target_tokens(batch)).tolist()
    values, scores = models.values("critic", batch).tolist(), models.scores("reward", batch)
    policy, critic = models.language_model("policy"), models["critic"]
    assert isinstance(critic, ScalarModel)
    expected_logprobs: list[float] = []
    expected_values: list[float] = []
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        ids = torch.tensor([[*prompt, *response]])
        logprobs_of_all = (policy(input_ids=ids).logits[0] / 0.7).log_softmax(1)
        # the reward model and the critic are of one origin
        scalars = critic.head(critic.lm.base_model(input_ids=ids).last_hidden_state[0])
        assert float(scores[row]) == pytest.approx(float(scalars[-1]), abs=1e-5)
        for place, token in enumerate(response, start=len(prompt) - 1):
            expected_logprobs.append(float(logprobs_of_all[place, token]))
            expected_values.append(float(scalars[place]))
    assert logprobs == pytest.approx(expected_logprobs, abs=1e-5)
    assert values == pytest.approx(expected_values, abs=1e-5)


@torch.no_grad()
def test_passes_are_in_the_engine_s_precision_and_their_results_in_float32(
    prepared: Workspace, batch: TokenBatch
) -> None:
    half = make_models(prepared, None, TorchEngine(EngineSettings(threads=1, precision="bf16")))
    full = make_models(prepared, None)
    for found, exact in (
        (half.target_logits("policy", batch), full.target_logits("policy", batch)),
        (half.values("critic", batch), full.values("critic", batch)),
        (half.scores("reward", batch), full.scores("reward", batch)),
    ):
        assert found.dtype == torch.float32
        # rounded, and not by much
        assert 0 < float((found - exact).abs().max()) < 0.1


# -- the trunk ----------------------------------------------------------------------------------


@torch.no_grad()
def move_top(models: Models) -> None:
    """Policy and critic as some updates would leave them; what is below stays."""
    for role in models.trainers:
        for value in models[role].parameters():
            if value.requires_grad:
                random = torch.Generator().manual_seed(3)
                value.add_(0.02 * torch.randn(value.shape, generator=random))


@torch.no_grad()
def results(models: Models, batch: TokenBatch) -> dict[str, Tensor]:
    return {
        "policy": models.target_logits("policy", batch, temperature=0.7),
        "reference": models.target_logits("reference", batch),
        "critic": models.values("critic", batch),
        "reward": models.scores("reward", batch),
    }


def test_a_shared_trunk_changes_no_result(models: Models, batch: TokenBatch) -> None:
    models.share_trunk()
    move_top(models)
    sharing = models.with_trunk_states(batch, 4)
    assert sharing.trunk_states is not None and sharing.trunk_blocks == 1
    plain, shared = results(models, batch), results(models, sharing)
    for role, expected in plain.items():
        torch.testing.assert_close(shared[role], expected, atol=1e-6, rtol=1e-6)


def test_the_trunk_is_run_in_micro_batches_as_everything_is(
    models: Models, batch: TokenBatch
) -> None:
    """A micro-batch of a batch with states is the same as states of a micro-batch, to the bit."""
    models.share_trunk()
    on_trunk = models.with_trunk_states(batch, 2)
    assert on_trunk.trunk_states is not None and on_trunk.trunk_states.shape == (4, 8, 64)
    for part, alone in zip(on_trunk.micro_batches(2), batch.micro_batches(2), strict=True):
        expected = models.with_trunk_states(alone, 2)
        assert part.trunk_states is not None and expected.trunk_states is not None
        assert torch.equal(part.trunk_states, expected.trunk_states)


@torch.no_grad()
def test_states_and_unembedding_in_two_steps_give_the_logits(
    models: Models, batch: TokenBatch
) -> None:
    """On the batch itself and on the trunk's states, a few tokens at a time."""
    models.share_trunk()
    for one in (batch, models.with_trunk_states(batch, 4)):
        for role in ("policy", "reference"):
            expected = models.target_logits(role, one, temperature=0.7)
            states = models.target_states(role, one)
            assert states.shape == (int(batch.target_mask.sum()), 64)
            found = [models.unembed(role, part, temperature=0.7) for part in states.split(3)]
            torch.testing.assert_close(torch.cat(found), expected, atol=1e-5, rtol=1e-5)


def gradients(module: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    named = module.named_parameters()
    return {name: value.grad.clone() for name, value in named if value.grad is not None}


def test_a_shared_trunk_changes_no_gradient(models: Models, batch: TokenBatch) -> None:
    models.share_trunk()
    sharing = models.with_trunk_states(batch, 4)
    for role in ("policy", "critic"):
        found = []
        for one in (batch, sharing):
            logits = models.target_logits("policy", one).square().mean()
            loss = logits if role == "policy" else models.values("critic", one).square().mean()
            found.append(gradients(models[role], loss))
        plain, shared = found
        assert plain.keys() == shared.keys()
        # of the top alone: the trunk's own parameters are not reached
        assert any(".layers.1." in name for name in plain)
        assert not any(".layers.0." in name or "embed" in name for name in plain)
        for name, value in plain.items():
            torch.testing.assert_close(shared[name], value, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("layers", "engine"),
    [(None, TorchEngine), (1, PartedEngine)],
    ids=["everything learns", "weights in parts"],
)
def test_no_trunk_is_shared_where_there_is_none(
    prepared: Workspace, batch: TokenBatch, layers: int | None, engine: type[TorchEngine]
) -> None:
    models = make_models(prepared, layers, engine(EngineSettings(threads=1)))
    models.share_trunk()
    assert models.with_trunk_states(batch, 2) is batch


def other_build() -> GPT2LMHeadModel:
    """A model whose blocks are not called layers."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=2)
    return GPT2LMHeadModel(config)


@torch.no_grad()
@pytest.mark.parametrize("build", ["another origin", "no list of layers"])
def test_a_role_without_the_trunk_reads_its_own_and_the_others_share(
    prepared: Workspace, models: Models, batch: TokenBatch, build: str
) -> None:
    other = load_causal_lm(prepared.model("base")) if build == "another origin" else other_build()
    models.freeze("other", other)
    expected = models.target_logits("other", batch)
    models.share_trunk()
    sharing = models.with_trunk_states(batch, 4)
    assert sharing.trunk_states is not None
    assert torch.equal(models.target_logits("other", sharing), expected)
    alone = make_models(prepared)
    alone.share_trunk()
    for role, result in results(alone, alone.with_trunk_states(batch, 4)).items():
        assert torch.equal(results(models, sharing)[role], result)


@torch.no_grad()
def test_a_head_without_the_trunk_reads_its_own(
    prepared: Workspace, models: Models, batch: TokenBatch
) -> None:
    models.freeze("other", new_scalar_model(prepared.model("base"), 5, "other"))
    plain = models.values("other", batch), models.scores("other", batch)
    models.share_trunk()
    sharing = models.with_trunk_states(batch, 4)
    found = models.values("other", sharing), models.scores("other", sharing)
    assert all(torch.equal(*pair) for pair in zip(plain, found, strict=True))


# -- gathering and saving -----------------------------------------------------------------------


def test_weights_are_whole_inside_of_gathered(models: Models) -> None:
    for role in ("policy", "reference"):
        with models.gathered(role):
            weight = models.language_model(role).get_input_embeddings().weight
            assert weight.shape == (64, 64)


def test_a_saved_model_is_a_directory_that_can_be_read(models: Models, tmp_path: Path) -> None:
    move_top(models)
    models.save("policy", tiny_tokenizer(), tmp_path / "policy")
    loaded = load_causal_lm(tmp_path / "policy").state_dict()
    for name, value in models.language_model("policy").state_dict().items():
        assert torch.equal(loaded[name], value), name
    assert load_tokenizer(tmp_path / "policy").get_vocab() == tiny_tokenizer().get_vocab()
    # nothing half-written is left
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_a_saved_model_takes_the_place_of_the_one_before(
    models: Models, prepared: Workspace, tmp_path: Path
) -> None:
    models.save("policy", tiny_tokenizer(), tmp_path / "policy")
    assert same_models(tmp_path / "policy", prepared.model("sft"))
    move_top(models)
    models.save("policy", tiny_tokenizer(), tmp_path / "policy")
    assert not same_models(tmp_path / "policy", prepared.model("sft"))


def test_one_process_writes(prepared: Workspace, tmp_path: Path) -> None:
    models = make_models(prepared, 1, SecondProcess(EngineSettings(threads=1)))
    models.save("policy", tiny_tokenizer(), tmp_path / "policy")
    assert list(tmp_path.iterdir()) == []
