"""PPO-max against a slow reference."""

import math
from typing import get_args

import pytest
import torch
from slow_ppo import flat, make, roll, slow_advantages, slow_rows
from tiny import EOS, PAD
from torch import Tensor
from transformers import PreTrainedModel

from rlhf.algorithms import ALGORITHMS, Material
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.batches.padding import TokenBatch, pad
from rlhf.common.errors import TrainingError
from rlhf.core.tally import Tally
from rlhf.models.backbone import hidden_states
from rlhf.models.heads import load_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.rollout.records import Experience
from rlhf.settings.policy import Ppo
from rlhf.workspace import Workspace


def test_the_settings_know_every_algorithm() -> None:
    assert get_args(Ppo.model_fields["algorithm"].annotation) == tuple(ALGORITHMS)


@pytest.fixture
def algorithm(prepared: Workspace) -> PpoMax:
    return make(prepared)


def test_experience_equals_the_slow_reference(prepared: Workspace, algorithm: PpoMax) -> None:
    rollout = roll(algorithm)
    assert len({len(response) for response in rollout.responses}) > 1  # padding is involved
    experience, metrics = algorithm.experience(Material(rollout))
    rows = slow_rows(prepared, algorithm, rollout)
    raw = torch.tensor([row.reward for row in rows], dtype=torch.float64)
    scores = (
        (raw - raw.mean()) / raw.std()
    ).tolist()  # the first batch is all the history there is
    advantages = [
        slow_advantages(row, s, 0.05, 1.0, 0.95) for row, s in zip(rows, scores, strict=True)
    ]
    mask = experience.response_mask
    assert mask.sum(dim=1).tolist() == [len(response) for response in rollout.responses]
    assert experience.old_logprobs[mask].tolist() == pytest.approx(
        flat([row.logprobs for row in rows]), abs=1e-5
    )
    assert experience.old_values[mask].tolist() == pytest.approx(
        flat([row.values for row in rows]), abs=1e-5
    )
    assert experience.advantages[mask].tolist() == pytest.approx(flat(advantages), abs=1e-4)
    returns = [
        a + v for a, v in zip(flat(advantages), flat([row.values for row in rows]), strict=True)
    ]
    assert experience.returns[mask].tolist() == pytest.approx(returns, abs=1e-4)

    tokens = int(mask.sum())
    kls = [[p - r for p, r in zip(row.logprobs, row.reference, strict=True)] for row in rows]
    errors = torch.tensor(flat(advantages), dtype=torch.float64)
    expected = {
        "reward": float(raw.mean()),
        "reward_std": float(raw.std(correction=0)),
        "reward_normalised": 0.0,
        "kl": sum(flat(kls)) / tokens,
        "kl_sequence": sum(flat(kls)) / len(rows),
        "response_length": tokens / len(rows),
        "finished": sum(response[-1] == EOS for response in rollout.responses) / len(rows),
        "perplexity": math.exp(-sum(flat([row.logprobs for row in rows])) / tokens),
        "entropy": sum(flat([row.entropies for row in rows])) / tokens,
        "advantage_mean": float(errors.mean()),
        "advantage_std": float(errors.std(correction=0)),
        "return_mean": sum(returns) / tokens,
        "explained_variance": 1
        - float(errors.var() / torch.tensor(returns, dtype=torch.float64).var()),
        "sampler_logprob_gap": 0.0,
    }
    assert metrics == pytest.approx(expected, abs=2e-4)
    assert algorithm.look(rollout)[0].tolist() == pytest.approx(raw.tolist(), abs=1e-5)


def test_every_process_of_a_look_runs_as_many_forwards(
    prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five prompts over two processes, in micro-batches of two: 3 rows in 2 forwards, and 2 rows in 1 and a stand-in."""
    algorithm = make(prepared, ppo__micro_batch=2)
    policies: list[list[list[int]]] = []

    def counted(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
        if model is algorithm.policy():
            policies[-1].append(batch.input_ids.tolist())
        return hidden_states(model, batch)

    monkeypatch.setattr("rlhf.algorithms.ppo_max.hidden_states", counted)
    whole, parts = (
        roll(algorithm, rows=range(5)),
        [roll(algorithm, rows=range(5)[rank::2]) for rank in range(2)],
    )
    found = []
    for rollout, everyone in ((whole, [3]), (parts[0], [2, 1]), (parts[1], [2, 1])):
        policies.append([])
        monkeypatch.setattr(algorithm.engine, "all_gather", lambda items, own=everyone: own)
        found.append(algorithm.look(rollout))
    assert [len(forwards) for forwards in policies] == [3, 2, 2]
    assert policies[2][1] == policies[2][0]  # the stand-in, which counts for nothing:
    (rewards, tally), (first, one), (second, two) = found
    torch.testing.assert_close(torch.cat([first, second]), rewards[[0, 2, 4, 1, 3]])
    assert two.weights["reward"] == 2.0
    one.absorb(two)
    assert one.means(lambda value: value) == pytest.approx(
        tally.means(lambda value: value), abs=1e-5
    )


def test_losses_equal_the_slow_reference(prepared: Workspace, algorithm: PpoMax) -> None:
    rollout = roll(algorithm)
    experience, _ = algorithm.experience(Material(rollout))
    with torch.no_grad():  # as after some updates of the same buffer
        for module in (algorithm.policy(), algorithm._critic.head):
            for value in module.parameters():
                value.add_(
                    0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(6))
                )
    rows = slow_rows(prepared, algorithm, rollout)
    mask = experience.response_mask
    new = flat([row.logprobs for row in rows])
    old, advantages = experience.old_logprobs[mask].tolist(), experience.advantages[mask].tolist()
    ratios = [math.exp(n - o) for n, o in zip(new, old, strict=True)]
    surrogates = [
        -min(r * a, min(max(r, 0.8), 1.2) * a) for r, a in zip(ratios, advantages, strict=True)
    ]
    assert any(abs(ratio - 1) > 0.2 for ratio in ratios) and any(
        abs(ratio - 1) < 0.2 for ratio in ratios
    )
    tally = Tally()
    losses = [loss() for loss in algorithm.losses("policy", 0, experience, None, tally)]
    assert len(losses) == 2  # micro-batches of four
    tokens = len(new)
    assert float(sum(losses).detach()) == pytest.approx(sum(surrogates) / tokens, abs=1e-5)
    found = tally.means(lambda value: value)
    assert found == pytest.approx(
        {
            "policy_loss": sum(surrogates) / tokens,
            "ratio_mean": sum(ratios) / tokens,
            "ratio_max_deviation": max(abs(ratio - 1) for ratio in ratios),
            "clip_fraction": sum(abs(ratio - 1) > 0.2 for ratio in ratios) / tokens,
        },
        abs=1e-4,
    )


def value_loss_by_loop(algorithm: PpoMax, experience: Experience, clip: float | None) -> float:
    total, count = 0.0, 0
    with torch.no_grad():
        values = algorithm._critic(experience.batch)
    for row, mask in enumerate(experience.batch.target_mask.tolist()):
        places = [place for place, counts in enumerate(mask) if counts]
        for step, place in enumerate(places):
            value, old, target = (
                float(values[row, place - 1]), float(experience.old_values[row, step]), float(experience.returns[row, step])
            )  # fmt: skip
            bounded = value if clip is None else min(max(value, old - clip), old + clip)
            total += 0.5 * max((value - target) ** 2, (bounded - target) ** 2)
            count += 1
    return total / count


def test_the_critic_learns_within_its_band_and_freely_before_the_policy_learns(
    algorithm: PpoMax,
) -> None:
    experience, _ = algorithm.experience(Material(roll(algorithm)))
    with torch.no_grad():
        algorithm._critic.head.weight.add_(
            0.05 * torch.randn(1, 64, generator=torch.Generator().manual_seed(2))
        )
    for iteration, clip in ((0, 0.2), (-1, None)):
        tally = Tally()
        losses = [
            float(loss().detach())
            for loss in algorithm.losses("critic", iteration, experience, None, tally)
        ]
        assert sum(losses) == pytest.approx(
            value_loss_by_loop(algorithm, experience, clip), abs=1e-5
        )
        assert (tally.means(lambda value: value)["value_clip_fraction"] > 0) is (clip is not None)


def test_the_first_update_has_ratio_exactly_one(algorithm: PpoMax) -> None:
    experience, _ = algorithm.experience(Material(roll(algorithm)))
    for rows in torch.arange(8).split(4):
        tally = Tally()
        for loss in algorithm.losses("policy", 0, experience.select(rows), None, tally):
            loss()
        assert tally.peaks == {"ratio_max_deviation": 0.0}


def gradients(
    algorithm: PpoMax, name: str, experience: Experience, pretrain: TokenBatch | None
) -> dict[str, Tensor]:
    module = algorithm.trainers[name].module
    module.zero_grad()
    for loss in algorithm.losses(name, 0, experience, pretrain, Tally()):
        loss().backward()
    return {
        key: value.grad.clone()
        for key, value in module.named_parameters()
        if value.grad is not None
    }


@pytest.mark.parametrize("layers", [1, 2])
def test_a_shared_trunk_changes_no_number(prepared: Workspace, layers: int) -> None:
    """Where only the top layers differ, what is below them is run once; the results are those of the whole models."""
    algorithm = make(prepared, ppo__trainable_layers=layers)
    rollout = roll(algorithm)
    assert algorithm._shared == layers
    found = []
    for shared in (layers, None):
        algorithm._shared = shared
        algorithm.load_state({"history": {}, "penalty": 0.0})
        experience, metrics = algorithm.experience(Material(rollout))
        assert (experience.below is None) is (shared is None)
        slopes = [gradients(algorithm, name, experience, None) for name in ("policy", "critic")]
        found.append((experience, metrics, algorithm.look(rollout)[0], slopes))
    (one, told_one, score_one, slopes_one), (two, told_two, score_two, slopes_two) = found
    for name in ("old_logprobs", "old_values", "advantages", "returns"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), atol=1e-5, rtol=1e-5)
    assert told_one == pytest.approx(told_two, abs=1e-5)
    torch.testing.assert_close(score_one, score_two)
    for left, right in zip(slopes_one, slopes_two, strict=True):
        assert left.keys() == right.keys() and any("layers.1." in key for key in left)
        for key, value in left.items():
            torch.testing.assert_close(value, right[key], atol=2e-6, rtol=1e-4)


def test_no_trunk_is_shared_where_the_lower_layers_differ_or_learn(prepared: Workspace) -> None:
    assert make(prepared)._shared is None
    assert make(prepared, ppo__initial="base", ppo__trainable_layers=1)._shared is None


@pytest.mark.parametrize("name", ["policy", "critic"])
def test_the_micro_batches_do_not_change_the_gradient(prepared: Workspace, name: str) -> None:
    text = pad([[5, 6, 7, 8]], [[True] * 4], PAD)
    found = []
    for size in (1, 2, 4, 8):
        algorithm = make(prepared, ppo__mini_batch=8, ppo__micro_batch=size)
        experience, _ = algorithm.experience(Material(roll(algorithm)))
        found.append(gradients(algorithm, name, experience, text))
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for key, value in other.items():
            torch.testing.assert_close(value, found[0][key], atol=2e-6, rtol=1e-4)


def test_plain_text_adds_its_weighted_loss_at_temperature_one(algorithm: PpoMax) -> None:
    experience, _ = algorithm.experience(Material(roll(algorithm)))
    windows = [[5, 6, 7, 8], [9, 10, 11, 12]]
    text = pad(windows, [[True] * 4] * 2, PAD)
    tally = Tally()
    *_, ptx = algorithm.losses("policy", 0, experience, text, tally)
    with torch.no_grad():
        own = torch.tensor(windows)
        logprobs = algorithm.policy()(input_ids=own).logits.log_softmax(-1)
        expected = -float(logprobs[:, :-1].gather(2, own[:, 1:, None]).mean())
        assert float(ptx()) == pytest.approx(0.1 * expected, abs=1e-6)
    assert tally.means(lambda value: value) == {"ptx_loss": pytest.approx(expected, abs=1e-5)}
    assert (
        len(algorithm.losses("critic", 0, experience, text, Tally())) == 2
    )  # of no concern to the critic


def test_the_history_grows_and_survives(prepared: Workspace, algorithm: PpoMax) -> None:
    first, second = roll(algorithm, 1), roll(algorithm, 2)
    algorithm.experience(Material(first))
    state = algorithm.state()
    resumed = make(prepared)
    resumed.load_state(state)
    one, _ = algorithm.experience(Material(second))
    two, _ = resumed.experience(Material(second))
    assert torch.equal(one.advantages, two.advantages)
    rewards = torch.cat([algorithm.look(rollout)[0] for rollout in (first, second)]).double()
    history = algorithm.state()["history"]
    assert (history["count"], history["mean"]) == (
        16,
        pytest.approx(float(rewards.mean()), abs=1e-5),
    )
    assert history["squares"] / 15 == pytest.approx(float(rewards.var()), abs=1e-5)


def test_the_critic_learns_alone_at_first(prepared: Workspace) -> None:
    algorithm = make(
        prepared,
        ppo__epochs=3,
        ppo__critic__pretraining_iterations=2,
        ppo__critic__pretraining_epochs=4,
    )
    assert algorithm.warmup_iterations == 2
    assert algorithm.active(-2) == algorithm.active(-1) == {"critic": 4}
    assert algorithm.active(0) == {"policy": 3, "critic": 3}
    # 4 iterations x 3 epochs x 2 mini-batches, and for the critic 2 x 4 x 2 more
    assert [algorithm.trainers[name].total_steps for name in ("policy", "critic")] == [24, 40]  # type: ignore[attr-defined]


def test_who_starts_from_what(prepared: Workspace) -> None:
    fresh = make(prepared, ppo__critic__initial="sft", ppo__initial="base", ppo__trainable_layers=1)
    base, sft = (load_causal_lm(prepared.model(name)) for name in ("base", "sft"))
    bottom = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(fresh._critic.lm.get_parameter(bottom), sft.get_parameter(bottom))
    assert torch.equal(fresh._reference.get_parameter(bottom), sft.get_parameter(bottom))
    assert torch.equal(fresh.policy().get_parameter(bottom), base.get_parameter(bottom))
    for module in (fresh._reference, fresh._reward):
        assert not any(value.requires_grad for value in module.parameters())
    for module in (fresh.policy(), fresh._critic.lm):
        assert not module.get_parameter(bottom).requires_grad
        assert module.get_parameter("model.layers.1.mlp.up_proj.weight").requires_grad
    assert fresh._critic.head.weight.requires_grad


@torch.no_grad()
def test_the_critic_starts_from_the_reward_model_or_with_a_fresh_head(prepared: Workspace) -> None:
    reward = load_scalar_model(prepared.model("reward"))
    fresh = make(prepared, ppo__critic__initial="sft")._critic.head
    same = make(prepared, ppo__critic__initial="reward")._critic.head
    cosine = (
        torch.nn.functional.cosine_similarity
    )  # scores are divided by their spread, the direction stays
    assert float(cosine(same.weight, reward.head.weight)) == pytest.approx(1, abs=1e-5)
    assert abs(float(cosine(fresh.weight, reward.head.weight))) < 0.9 and float(fresh.bias) == 0


def test_it_asks_for_rollouts(algorithm: PpoMax) -> None:
    assert "rollouts" in algorithm.consumes
    with pytest.raises(TrainingError, match="rollouts"):
        algorithm.experience(Material())
