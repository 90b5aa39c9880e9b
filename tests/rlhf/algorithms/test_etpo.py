"""ETPO against a slow reference: targets and losses, critic and target network, what is watched."""

import math
from typing import Any

import pytest
import torch
from given import StepLoss, gradients, step_loss, update_of
from neighbours import ETPO
from slow_etpo import BETA, made, section, slow_states, slow_targets
from slow_ppo import flat, make, mean, move, normalised_scores, roll, slow_rows
from torch import Tensor, nn

import rlhf.algorithms.etpo as etpo
from rlhf.algorithms.base import Step
from rlhf.algorithms.etpo import Etpo
from rlhf.engine.single import TorchEngine, TorchTrainer
from rlhf.models.saving import load_causal_lm
from rlhf.rollout.records import Experience, Rollout
from rlhf.settings.training import EngineSettings
from rlhf.workspace import Workspace


@pytest.fixture
def algorithm(prepared: Workspace) -> Etpo:
    return made(prepared)


@pytest.fixture
def rollout(algorithm: Etpo) -> Rollout:
    rollout = roll(algorithm)
    # padding is involved
    assert len({len(response) for response in rollout.responses}) > 1
    return rollout


# -- targets ------------------------------------------------------------------------------------


def test_targets_are_soft_values_of_the_states_after(
    prepared: Workspace, algorithm: Etpo, rollout: Rollout
) -> None:
    responses = slow_states(prepared, algorithm, rollout)
    scores = normalised_scores(slow_rows(prepared, algorithm, rollout))
    update = update_of(algorithm, "policy", rollout)
    (experience,) = update.mini_batches

    targets = []
    for states, score, found in zip(responses, scores, experience.returns, strict=True):
        targets.append(slow_targets(states, score))
        padding = [0.0] * (len(found) - len(states))
        assert found.tolist() == pytest.approx([*targets[-1], *padding], abs=1e-4)

    values = [[state.value(state.target) for state in states] for states in responses]
    # the state values themselves are of about this size
    assert 0.02 < torch.tensor(flat(values)).std() < 2
    assert update.metrics["soft_value"] == pytest.approx(mean(flat(values)), abs=1e-4)
    assert update.metrics["q_target"] == pytest.approx(mean(flat(targets)), abs=1e-4)
    # what is watched as the advantage of a token
    surplus = [t - v for t, v in zip(flat(targets), flat(values), strict=True)]
    assert update.metrics["advantage_mean"] == pytest.approx(mean(surplus), abs=1e-4)


def test_a_token_is_paid_by_the_score_alone(
    prepared: Workspace, algorithm: Etpo, rollout: Rollout
) -> None:
    update = update_of(algorithm, "policy", rollout)
    names = {key for key in update.metrics if key.startswith("token_reward_")}
    assert names == {"token_reward_final_score"}
    # the divergence of the tokens taken is watched all the same
    log_ratios = flat([row.log_ratios for row in slow_rows(prepared, algorithm, rollout)])
    assert update.metrics["kl"] == pytest.approx(mean(log_ratios), abs=1e-5)


# -- losses -------------------------------------------------------------------------------------


def test_the_policy_s_loss_equals_the_slow_reference(
    prepared: Workspace, algorithm: Etpo, rollout: Rollout
) -> None:
    """Of the critic and the policy as they are at the step, not as they were when scored."""
    update = update_of(algorithm, "policy", rollout)
    move(algorithm.models.language_model("policy"), seed=6)
    move(algorithm.models["critic"], seed=9, size=0.1)
    states = [state for row in slow_states(prepared, algorithm, rollout) for state in row]

    loss = step_loss(update, role="policy")
    # micro-batches of four
    assert len(loss.parts) == 2
    expected = -mean([state.value(state.critic) for state in states])
    assert float(loss.total.detach()) == pytest.approx(expected, abs=1e-5)
    assert loss.metrics == {
        "policy_loss": pytest.approx(expected, abs=1e-5),
        "kl_exact": pytest.approx(mean([state.kl for state in states]), abs=1e-5),
        "q_advantage_std": pytest.approx(mean([state.spread for state in states]), abs=1e-5),
    }


@pytest.mark.parametrize("huber", [None, 10.0, 0.2])
def test_the_critic_s_loss_equals_the_slow_reference(
    prepared: Workspace, huber: float | None
) -> None:
    algorithm = made(prepared, section(huber=huber))
    rollout = roll(algorithm)
    scores = normalised_scores(slow_rows(prepared, algorithm, rollout))
    responses = slow_states(prepared, algorithm, rollout)
    update = update_of(algorithm, "critic", rollout)
    errors, values = [], []
    for states, score in zip(responses, scores, strict=True):
        for state, target in zip(states, slow_targets(states, score), strict=True):
            values.append(state.critic[state.taken])
            errors.append(abs(values[-1] - target))
    # some are on either side of 0.2
    assert min(errors) < 0.2 < max(errors) < 10
    losses = []
    for error in errors:
        inside = huber is None or error <= huber
        losses.append(0.5 * error**2 if inside else huber * (error - huber / 2))

    loss = step_loss(update, role="critic")
    assert float(loss.total.detach()) == pytest.approx(mean(losses), rel=1e-4)
    assert loss.metrics == {
        "q_loss": pytest.approx(mean(losses), rel=1e-4),
        "q_mean": pytest.approx(mean(values), abs=1e-5),
        "td_error": pytest.approx(mean(errors), rel=1e-4),
        "largest_td_error": pytest.approx(max(errors), rel=1e-4),
    }


def slopes_with_critic(algorithm: Etpo, rollout: Rollout, sign: float) -> dict[str, Tensor]:
    """The policy's gradient where the critic says the same, or the opposite."""
    update = update_of(algorithm, "policy", rollout)
    head = algorithm.models.language_model("critic").get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(sign)
    return gradients(algorithm, update, "policy")


@pytest.mark.parametrize("form", ["exact", "published"])
def test_only_the_exact_form_learns_from_the_critic(prepared: Workspace, form: str) -> None:
    algorithm = made(prepared, section(form=form))
    rollout = roll(algorithm)
    # Q is well above beta times the log-ratios
    move(algorithm.models["critic"], seed=10, size=1.0)
    as_it_is, opposite = (slopes_with_critic(algorithm, rollout, sign) for sign in (1.0, -1.0))
    one, other = (
        torch.cat([each.flatten() for each in found.values()]) for found in (as_it_is, opposite)
    )
    cosine = float(nn.functional.cosine_similarity(one, other, dim=0))
    if form == "published":
        assert torch.equal(one, other)
    else:
        assert cosine < -0.9


def test_the_published_loss_is_a_mean_over_the_vocabulary(
    prepared: Workspace, rollout: Rollout
) -> None:
    algorithm = made(prepared, section(form="published"))
    states = [state for row in slow_states(prepared, algorithm, rollout) for state in row]
    terms = [
        mean(
            [BETA * math.log(p) - q for p, q in zip(state.probabilities, state.critic, strict=True)]
        )
        for state in states
    ]
    loss = step_loss(update_of(algorithm, "policy", rollout), role="policy")
    assert float(loss.total.detach()) == pytest.approx(mean(terms), abs=1e-4)


# -- what must change no number -----------------------------------------------------------------


def numbers_of(algorithm: Etpo) -> tuple[Experience, list[StepLoss], list[dict[str, Tensor]]]:
    update = update_of(algorithm, "policy", roll(algorithm))
    (experience,) = update.mini_batches
    losses = [step_loss(update, role=role) for role in update.roles]
    return experience, losses, [gradients(algorithm, update, role) for role in update.roles]


@pytest.mark.parametrize(("key", "value"), [("chunk", 1), ("chunk", 7), ("micro_batch", 1)])
def test_chunks_and_micro_batches_change_no_number(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch, key: str, value: int
) -> None:
    expected = numbers_of(made(prepared, {"ppo.micro_batch": 8}))
    changes = {"ppo.micro_batch": 8}
    if key == "chunk":
        monkeypatch.setattr(etpo, "CHUNK", value)
    else:
        changes["ppo.micro_batch"] = value
    found = numbers_of(made(prepared, changes))

    torch.testing.assert_close(found[0].returns, expected[0].returns, atol=1e-5, rtol=1e-5)
    for left, right in zip(found[1], expected[1], strict=True):
        assert left.metrics == pytest.approx(right.metrics, abs=1e-5)
    for one, other in zip(found[2], expected[2], strict=True):
        assert one.keys() == other.keys() and any(
            float(value.norm()) > 1e-3 for value in one.values()
        )
        for name, slope in one.items():
            torch.testing.assert_close(slope, other[name], atol=2e-6, rtol=1e-4)


# -- critic and target network ------------------------------------------------------------------


@pytest.mark.parametrize("initial", ["reward", "sft"])
def test_critic_and_target_start_at_0_on_the_blocks_that_are_asked_for(
    prepared: Workspace, initial: str
) -> None:
    algorithm = make(prepared, {**ETPO, "ppo.critic.initial": initial})
    origin = load_causal_lm(prepared.model(initial))
    for role in ("critic", "target"):
        model = algorithm.models.language_model(role)
        assert not model.get_output_embeddings().weight.any()
        for name, value in origin.base_model.named_parameters():
            assert torch.equal(model.base_model.get_parameter(name), value)
    # so the soft value is what the policy pays for its distance from the reference
    rollout = roll(algorithm)
    update = update_of(algorithm, "policy", rollout)
    loss = step_loss(update, role="policy")
    assert loss.metrics["kl_exact"] > 1e-3
    assert float(loss.total.detach()) == pytest.approx(BETA * loss.metrics["kl_exact"], rel=1e-4)


def test_the_target_follows_the_critic_after_the_critic_s_steps_alone(
    prepared: Workspace, rollout: Rollout
) -> None:
    algorithm = made(prepared, section(polyak=0.75))
    update = update_of(algorithm, "policy", rollout)
    assert update.after_step is not None
    critic, target = algorithm.models["critic"], algorithm.models["target"]
    before = [value.clone() for value in target.parameters()]
    pairs = list(zip(before, critic.parameters(), strict=True))
    expected = [0.75 * old + 0.25 * new for old, new in pairs]

    update.after_step("policy")
    assert all(map(torch.equal, target.parameters(), before))
    update.after_step("critic")
    for value, wanted in zip(target.parameters(), expected, strict=True):
        torch.testing.assert_close(value, wanted)
    assert not any(value.requires_grad for value in target.parameters())


class CastingEngine(TorchEngine):
    """Casts what is frozen, as ZeRO does in bf16."""

    def frozen(self, model: Any, *_: Any) -> Any:
        return super().frozen(model).bfloat16()


def test_the_target_moves_by_steps_that_bf16_would_round_away(prepared: Workspace) -> None:
    engine = CastingEngine(EngineSettings(threads=1))
    algorithm = make(prepared, {**ETPO, **section(polyak=0.995)}, engine)
    assert isinstance(algorithm, Etpo)
    assert {value.dtype for value in algorithm.models["reference"].parameters()} == {torch.bfloat16}
    assert {value.dtype for value in algorithm.models["target"].parameters()} == {torch.float32}


def test_what_does_not_learn_is_not_kept_with_the_target(prepared: Workspace) -> None:
    algorithm = made(prepared, {"ppo.trainable_layers": 1})
    names = algorithm.state()["target"].keys()
    assert {"lm_head.weight", "model.norm.weight"} < names
    assert not any(part in name for name in names for part in ("layers.0.", "embed"))


def test_the_target_survives(prepared: Workspace, algorithm: Etpo, rollout: Rollout) -> None:
    resumed = make(prepared, ETPO)
    # the trainers bring back the others
    for role in ("policy", "critic"):
        resumed.models[role].load_state_dict(algorithm.models[role].state_dict())
    resumed.load_state(algorithm.state())
    one, two = (update_of(each, "policy", rollout) for each in (algorithm, resumed))
    (left,), (right,) = one.mini_batches, two.mini_batches
    assert torch.equal(left.returns, right.returns)


# -- who learns when ----------------------------------------------------------------------------


def test_policy_and_critic_learn_in_turn_the_critic_alone_at_first(prepared: Workspace) -> None:
    changes = {
        "ppo.epochs": 3,
        "ppo.mini_batch": 4,
        "ppo.critic.pretraining_iterations": 2,
        "ppo.critic.pretraining_epochs": 4,
    }
    algorithm = made(prepared, changes)
    rollout = roll(algorithm)
    assert algorithm.warmup_iterations == 2
    found = {}
    for iteration in (-2, -1, 0):
        update = update_of(algorithm, "critic", rollout, iteration)
        found[iteration] = (update.roles, update.epochs, len(update.mini_batches))
    assert found[-2] == found[-1] == (("critic",), 4, 2)
    assert found[0] == (("policy", "critic"), 3, 2)

    # 4 iterations x 3 epochs x 2 mini-batches, and for the critic 2 x 4 x 2 more
    for role, steps in (("policy", 24), ("critic", 40)):
        trainer = algorithm.models.trainers[role]
        assert isinstance(trainer, TorchTrainer) and trainer.total_steps == steps


def test_a_refused_step_leaves_the_targets(algorithm: Etpo, rollout: Rollout) -> None:
    update = update_of(algorithm, "policy", rollout)
    step = Step("critic", update.mini_batches[0], 0)
    evidence = update.evidence(step)
    assert evidence.keys() == {"targets", "advantages", "input_ids"}
    assert float(evidence["targets"][0][0]) == pytest.approx(float(step.batch.returns[0, 0]))
