"""What on-policy algorithms share: what a member states, models, the critic, what survives."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from given import step_loss, update_of, updates_of
from members import ALL, each_member, each_member_with_critic
from neighbours import APA, ETPO, xpo
from slow_ppo import make, mean, move, normalised_scores, roll, slow_rows
from tiny import numbers, same_models, tiny_settings
from torch import Tensor, nn

from rlhf.algorithms.base import Step
from rlhf.algorithms.on_policy import OnPolicy, TokenRewards
from rlhf.engine.single import TorchTrainer
from rlhf.models.heads import ScalarModel, load_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.ppo.kl import kl_estimate
from rlhf.ppo.rewards import final_score
from rlhf.registry import ALGORITHMS, REWARDS, find
from rlhf.rollout.records import Experience, Rollout, Scores
from rlhf.training import loop
from rlhf.workspace import Workspace


def critic_of(algorithm: OnPolicy) -> ScalarModel:
    critic = algorithm.models["critic"]
    assert isinstance(critic, ScalarModel)
    return critic


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_can_be_found_and_states_what_it_reads(
    prepared: Workspace, name: str
) -> None:
    settings = tiny_settings(ALL[name])
    assert settings.ppo.algorithm == name
    algorithm = find(ALGORITHMS, name)
    # one learns nothing, and has none
    assert bool(algorithm.curves) == (name != "dpo")
    paths = algorithm.inputs(settings).paths(prepared)
    assert paths.keys() >= {"prompts", "models/sft", "models/reward"}
    assert all(path.exists() for path in paths.values())


OTHER_REWARD: Mapping[str, Any] = {"ppo.rewards": ["length:2"]}
OTHER_CRITIC: Mapping[str, Any] = {"ppo.critic.initial": "sft"}


@pytest.mark.parametrize(
    ("changes", "tables", "models"),
    [
        ({}, {"prompts", "pretrain"}, {"sft", "reward"}),
        ({"ppo.ptx": None}, {"prompts"}, {"sft", "reward"}),
        ({**APA, "ppo.ptx": None}, {"prompts"}, {"sft", "reward"}),
        (xpo(), {"prompts"}, {"sft", "reward"}),
        ({"ppo.initial": "base"}, {"prompts", "pretrain"}, {"sft", "reward", "base"}),
        # the reward model has two uses
        (OTHER_REWARD, {"prompts", "pretrain"}, {"sft", "reward"}),
        (OTHER_CRITIC, {"prompts", "pretrain"}, {"sft", "reward"}),
        ({**OTHER_REWARD, **OTHER_CRITIC}, {"prompts", "pretrain"}, {"sft"}),
        ({**ETPO, **OTHER_REWARD}, {"prompts"}, {"sft", "reward"}),
        ({**ETPO, **OTHER_REWARD, **OTHER_CRITIC}, {"prompts"}, {"sft"}),
    ],
)
def test_nothing_is_an_input_that_is_not_read(
    monkeypatch: pytest.MonkeyPatch,
    changes: Mapping[str, Any],
    tables: set[str],
    models: set[str],
) -> None:
    monkeypatch.setitem(REWARDS, "length", "nowhere:Length")
    settings = tiny_settings(changes)
    inputs = find(ALGORITHMS, settings.ppo.algorithm).inputs(settings)
    assert (set(inputs.tables), set(inputs.models)) == (tables, models)
    # none twice
    assert len(inputs.models) == len(models)


def test_inputs_are_named_by_where_they_lie(prepared: Workspace) -> None:
    inputs = OnPolicy.inputs(tiny_settings({"ppo.initial": "base"}))
    assert inputs.paths(prepared)["models/base"] == prepared.model("base")


# -- a member -----------------------------------------------------------------------------------


class Reinforce(OnPolicy):
    """A member states three functions; this one has no critic."""

    def token_rewards(self, rollout: Rollout, scores: Scores) -> TokenRewards:
        mask = rollout.response_mask
        final = self.reparameterised(scores.scores)
        divergence = kl_estimate(scores.logprobs, scores.reference_logprobs) * mask
        return TokenRewards({"final_score": final_score(final, mask)}, final, divergence)

    def targets(
        self, rollout: Rollout, scores: Scores, rewards: TokenRewards
    ) -> tuple[Tensor, Tensor]:
        to_go = rewards.total.flip(1).cumsum(1).flip(1) * rollout.response_mask
        return to_go, to_go

    def policy_loss(
        self, part: Experience, logits: Tensor, logprobs: Tensor, step: Step[Experience]
    ) -> Tensor:
        losses = -part.advantages[part.response_mask] * logprobs
        step.tally.add(policy_loss=losses)
        return losses


@pytest.fixture
def reinforce(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setitem(ALGORITHMS, "reinforce", f"{__name__}:Reinforce")
    return {"ppo.algorithm": "reinforce"}


def test_a_member_states_rewards_targets_and_loss(
    prepared: Workspace, reinforce: dict[str, Any]
) -> None:
    algorithm = make(prepared, reinforce)
    rollout = roll(algorithm)
    rows = slow_rows(prepared, algorithm, rollout)
    update = update_of(algorithm, "policy", rollout)

    (batch,) = update.mini_batches
    scores = normalised_scores(rows)
    terms = []
    for row, score, advantages in zip(rows, scores, batch.advantages.tolist(), strict=True):
        count = len(row.logprobs)
        assert advantages[:count] == pytest.approx([score] * count, abs=1e-4)
        terms += [-score * logprob for logprob in row.logprobs]
    assert torch.equal(batch.returns, batch.advantages)

    loss = step_loss(update)
    assert float(loss.total.detach()) == pytest.approx(mean(terms), abs=1e-4)
    assert loss.metrics == {"policy_loss": pytest.approx(mean(terms), abs=1e-4)}


def test_token_rewards_are_the_sum_of_their_sources() -> None:
    sources = {
        "final_score": torch.tensor([[0.0, 2.0], [-1.0, 0.0]]),
        "kl_penalty": torch.tensor([[-0.5, 0.25], [0.125, 0.0]]),
        "length": torch.tensor([[1.0, 1.0], [1.0, 0.0]]),
    }
    rewards = TokenRewards(sources, final=torch.zeros(2), kl=torch.zeros(2, 2))
    assert rewards.total.tolist() == [[0.5, 3.25], [0.125, 0.0]]
    # what a member handed over is as it was
    assert sources["final_score"].tolist() == [[0.0, 2.0], [-1.0, 0.0]]


class PaidByPrompt(Reinforce):
    """A source of its own, from what stands in the rollout: a prompt's place, at its first token."""

    def token_rewards(self, rollout: Rollout, scores: Scores) -> TokenRewards:
        rewards = super().token_rewards(rollout, scores)
        places = torch.zeros_like(rewards.total)
        places[:, 0] = torch.tensor(rollout.prompts.positions).float()
        return replace(rewards, sources={**rewards.sources, "place": places})


def test_a_source_may_read_the_rollout_and_is_logged(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ALGORITHMS, "reinforce", f"{__name__}:PaidByPrompt")
    no_clip = {"ppo.reward.clip": None}
    algorithm = make(prepared, {"ppo.algorithm": "reinforce", **no_clip})
    rollout = roll(algorithm)
    scores = normalised_scores(slow_rows(prepared, algorithm, rollout))
    update = update_of(algorithm, "policy", rollout)

    # the places of eight prompts are 0 to 7; normalised scores have no mean
    assert update.metrics["token_reward_place"] == pytest.approx(3.5)
    assert update.metrics["token_reward_final_score"] == pytest.approx(0.0, abs=1e-5)
    # the return of a response's first token is all that is paid
    (batch,) = update.mini_batches
    expected = [score + place for place, score in enumerate(scores)]
    assert batch.returns[:, 0].tolist() == pytest.approx(expected, abs=1e-4)


def test_a_member_runs_in_the_loop_as_it_is(
    workspace: Workspace, reinforce: dict[str, Any]
) -> None:
    loop.train(tiny_settings({**reinforce, "ppo.ptx": None, "ppo.iterations": 2}), workspace)
    *iterations, final = numbers(workspace.steps("ppo"))
    for row in iterations:
        assert {"policy_loss", "policy_gradient_norm", "reward", "kl"} <= row.keys()
        assert not {"ratio_mean", "value_loss", "explained_variance"} & row.keys()
    assert "validation_reward" in final
    (summary,) = numbers(workspace.metrics("ppo"))
    assert "first_ratio_deviation_max" not in summary and "reward_last" in summary
    assert not same_models(workspace.model("policy"), workspace.model("sft"))


# -- models -------------------------------------------------------------------------------------


def test_who_starts_from_what(prepared: Workspace) -> None:
    changes = {"ppo.critic.initial": "sft", "ppo.initial": "base", "ppo.trainable_layers": 1}
    algorithm = make(prepared, changes)
    bottom = "model.layers.0.mlp.up_proj.weight"
    top = "model.layers.1.mlp.up_proj.weight"
    origins = {"policy": "base", "critic": "sft", "reference": "sft", "reward": "reward"}
    for role, origin in origins.items():
        expected = load_causal_lm(prepared.model(origin)).get_parameter(bottom)
        model = algorithm.models.language_model(role)
        assert torch.equal(model.get_parameter(bottom), expected)

        learns = role in ("policy", "critic")
        assert not model.get_parameter(bottom).requires_grad
        assert model.get_parameter(top).requires_grad is learns
    assert critic_of(algorithm).head.weight.requires_grad


@torch.no_grad()
def test_the_critic_starts_from_the_reward_model_or_with_a_fresh_head(prepared: Workspace) -> None:
    reward = load_scalar_model(prepared.model("reward")).head.weight
    fresh = critic_of(make(prepared, {"ppo.critic.initial": "sft"})).head
    same = critic_of(make(prepared, {"ppo.critic.initial": "reward"})).head
    # scores are divided by their std; the direction stays
    cosine = nn.functional.cosine_similarity
    assert float(cosine(same.weight, reward)) == pytest.approx(1, abs=1e-5)
    assert abs(float(cosine(fresh.weight, reward))) < 0.9
    assert float(fresh.bias) == 0


@pytest.mark.parametrize("initial", ["reward", "sft"])
def test_the_values_of_a_critic_may_be_0_at_first(prepared: Workspace, initial: str) -> None:
    changes = {"ppo.critic.initial": initial, "ppo.critic.zero_head": True}
    algorithm = make(prepared, {**changes, "ppo.trainable_layers": None})
    assert not algorithm.score(roll(algorithm)).values.any()
    # what is below the head stays, and it learns
    weights = load_causal_lm(prepared.model(initial)).base_model.state_dict()
    own = algorithm.models.language_model("critic").base_model.state_dict()
    assert all(torch.equal(own[name], weights[name]) for name in weights)
    assert critic_of(algorithm).head.weight.requires_grad


def test_a_critic_is_rescaled_only_where_rewards_are(prepared: Workspace) -> None:
    reward = load_scalar_model(prepared.model("reward")).head.weight
    plain = {"ppo.reward": {"normalise": None, "scale": None, "clip": None}}
    torch.testing.assert_close(critic_of(make(prepared, plain)).head.weight, reward)
    torch.testing.assert_close(critic_of(make(prepared)).head.weight, reward / 0.5)


# -- the critic ---------------------------------------------------------------------------------


@each_member_with_critic
def test_the_critic_learns_alone_at_first(prepared: Workspace, member: dict[str, Any]) -> None:
    changes = {
        "ppo.epochs": 3,
        "ppo.mini_batch": 4,
        "ppo.critic.pretraining_iterations": 2,
        "ppo.critic.pretraining_epochs": 4,
    }
    algorithm = make(prepared, {**member, **changes})
    rollout = roll(algorithm)
    assert algorithm.warmup_iterations == 2
    found = {}
    for iteration in (-2, -1, 0):
        updates = updates_of(algorithm, rollout, iteration)
        found[iteration] = [(update.roles, update.epochs) for update in updates]
    alone_for_four_epochs = [(("critic",), 4)]
    assert found[-2] == found[-1] == alone_for_four_epochs
    assert found[0] == [(("policy",), 3), (("critic",), 3)]

    # 4 iterations x 3 epochs x 2 mini-batches, and for the critic 2 x 4 x 2 more
    for role, steps in (("policy", 24), ("critic", 40)):
        trainer = algorithm.models.trainers[role]
        assert isinstance(trainer, TorchTrainer) and trainer.total_steps == steps


@torch.no_grad()
def value_loss_by_loop(algorithm: OnPolicy, batch: Experience, clip: float | None) -> float:
    """Equation 16, token by token."""
    values = critic_of(algorithm)(batch.batch)
    losses = []
    for row, mask in enumerate(batch.batch.target_mask.tolist()):
        places = [place for place, counts in enumerate(mask) if counts]
        for step, place in enumerate(places):
            # of the state before the token
            value = float(values[row, place - 1])
            old, target = float(batch.old_values[row, step]), float(batch.returns[row, step])
            bounded = value if clip is None else min(max(value, old - clip), old + clip)
            losses.append(0.5 * max((value - target) ** 2, (bounded - target) ** 2))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("iteration", "clip"), [(0, 0.2), (-1, None)])
def test_the_critic_learns_within_its_band_and_freely_before_the_policy_learns(
    prepared: Workspace, iteration: int, clip: float | None
) -> None:
    algorithm = make(prepared)
    update = update_of(algorithm, "critic", roll(algorithm), iteration)
    (batch,) = update.mini_batches
    move(critic_of(algorithm).head, seed=2, size=0.05)

    loss = step_loss(update)
    assert float(loss.total.detach()) == pytest.approx(
        value_loss_by_loop(algorithm, batch, clip), abs=1e-5
    )
    was_clipped = loss.metrics["value_clip_fraction"] > 0
    assert was_clipped is (clip is not None)


# -- what survives ------------------------------------------------------------------------------


@each_member
def test_the_history_of_scores_grows_and_survives(
    prepared: Workspace, member: dict[str, Any]
) -> None:
    algorithm = make(prepared, member)
    first, second = roll(algorithm, 1), roll(algorithm, 2)
    updates_of(algorithm, first)
    resumed = make(prepared, member)
    resumed.load_state(algorithm.state())
    one, two = (updates_of(each, second)[0].mini_batches[0] for each in (algorithm, resumed))
    assert torch.equal(one.advantages, two.advantages)

    rewards = [algorithm.validate(rollout).scores for rollout in (first, second)]
    scores = torch.cat(rewards).double()
    history = algorithm.state()["history"]
    assert history["count"] == 16
    assert history["mean"] == pytest.approx(float(scores.mean()), abs=1e-5)
    assert history["squares"] / 15 == pytest.approx(float(scores.var()), abs=1e-5)


def test_a_validation_leaves_the_history_alone(prepared: Workspace) -> None:
    algorithm = make(prepared)
    before = algorithm.state()
    algorithm.validate(roll(algorithm))
    assert algorithm.state() == before
