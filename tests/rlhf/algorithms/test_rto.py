"""RTO against a slow reference, its refusals, and whole runs."""

from typing import Any

import counted_tokens
import pytest
import torch
from given import updates_of
from neighbours import RTO
from slow_ppo import (
    SlowRow,
    flat,
    logprobs_of,
    make,
    mean,
    normalised_scores,
    roll,
    slow_rows,
)
from tiny import EOS, numbers, same_models, tiny_model, tiny_settings, tiny_tokenizer

from rlhf.algorithms.on_policy import OnPolicy
from rlhf.common.errors import ModelError
from rlhf.models.dpo import NOTE_FILE
from rlhf.models.saving import load_causal_lm, save_causal_lm
from rlhf.rollout.records import Rollout
from rlhf.training import loop
from rlhf.workspace import OFF_FILE, Workspace

# large enough for the clamp to bite at some tokens and not at others
SECTION: dict[str, Any] = {
    "coefficient": 0.5,
    "clamp": 0.1,
    "score_coefficient": 0.7,
    "shaping_only": False,
}


@pytest.fixture
def algorithm(prepared: Workspace) -> OnPolicy:
    return make(prepared, {**RTO, "ppo.rto": SECTION})


@pytest.fixture
def rollout(algorithm: OnPolicy) -> Rollout:
    return roll(algorithm)


@torch.no_grad()
def slow_dpo_ratios(
    workspace: Workspace, rollout: Rollout, rows: list[SlowRow]
) -> list[list[float]]:
    """log pi_dpo - log pi_ref of each response token, a response at a time."""
    model = load_causal_lm(workspace.model("dpo"))
    found = []
    for prompt, response, row in zip(rollout.prompts.ids, rollout.responses, rows, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        logprobs, start = logprobs_of(model, ids), len(prompt) - 1
        ours = [float(logprobs[start + t, token]) for t, token in enumerate(response)]
        found.append([p - r for p, r in zip(ours, row.reference, strict=True)])
    return found


def slow_rewards(
    row: SlowRow, score: float, ratios: list[float], section: dict[str, Any]
) -> list[float]:
    """r_t = beta_1 log(pi_dpo / pi_ref) - beta_2 log(pi / pi_ref), + beta_3 score at the end."""
    dense = []
    for ratio in ratios:
        scaled = section["coefficient"] * ratio
        limit = section["clamp"]
        dense.append(scaled if limit is None else max(-limit, min(limit, scaled)))
    rewards = [d - 0.05 * ratio for d, ratio in zip(dense, row.log_ratios, strict=True)]
    rewards[-1] += section["score_coefficient"] * score
    if section["shaping_only"]:
        rewards[-1] -= sum(dense)
    return rewards


def slow_gae(rewards: list[float], values: list[float], lam: float = 0.95) -> list[float]:
    following = [*values[1:], 0.0]
    deltas = [r + later - now for r, later, now in zip(rewards, following, values, strict=True)]
    count = len(deltas)
    return [sum(lam ** (k - t) * deltas[k] for k in range(t, count)) for t in range(count)]


@pytest.mark.parametrize(
    "changes",
    [{}, {"clamp": None}, {"shaping_only": True}, {"score_coefficient": 0.0}],
    ids=["clamped", "paper", "shaping", "without-score"],
)
def test_advantages_equal_the_slow_reference(prepared: Workspace, changes: dict[str, Any]) -> None:
    section = {**SECTION, **changes}
    algorithm = make(prepared, {**RTO, "ppo.rto": section})
    rollout = roll(algorithm)
    rows = slow_rows(prepared, algorithm, rollout)
    ratios = slow_dpo_ratios(prepared, rollout, rows)
    beyond = [abs(section["coefficient"] * ratio) > 0.1 for ratio in flat(ratios)]
    assert any(beyond) and not all(beyond)

    (experience,) = updates_of(algorithm, rollout)[0].mini_batches
    scores = normalised_scores(rows)
    table = zip(rows, scores, ratios, experience.advantages, strict=True)
    for row, score, own_ratios, found in table:
        expected = slow_gae(slow_rewards(row, score, own_ratios, section), row.values)
        assert found[: len(expected)].tolist() == pytest.approx(expected, abs=2e-4)


def test_the_end_token_is_paid_too(algorithm: OnPolicy, rollout: Rollout) -> None:
    """Of a response that ended by itself; padding is paid nothing."""
    rewards = algorithm.token_rewards(rollout, algorithm.score(rollout)).sources["dpo_reward"]
    ended = [row for row, response in enumerate(rollout.responses) if response[-1] == EOS]
    assert ended
    for row in ended:
        assert float(rewards[row, len(rollout.responses[row]) - 1]) != 0.0
    assert bool((rewards[~rollout.response_mask] == 0).all())


def test_each_source_s_share_is_told(prepared: Workspace) -> None:
    algorithm = make(prepared, {**RTO, "ppo.rto": {**SECTION, "shaping_only": True}})
    rollout = roll(algorithm)
    metrics = updates_of(algorithm, rollout)[0].metrics
    shares = {key: value for key, value in metrics.items() if key.startswith("token_reward_")}
    names = ("final_score", "kl_penalty", "dpo_reward", "return_correction")
    assert shares.keys() == {f"token_reward_{name}" for name in names}
    rows = slow_rows(prepared, algorithm, rollout)
    limited = [
        [max(-0.1, min(0.1, 0.5 * ratio)) for ratio in ratios]
        for ratios in slow_dpo_ratios(prepared, rollout, rows)
    ]
    share = mean([sum(values) for values in limited])
    assert shares["token_reward_dpo_reward"] == pytest.approx(share, abs=1e-5)
    assert shares["token_reward_return_correction"] == pytest.approx(-share, abs=1e-5)


def test_with_a_dpo_model_that_is_its_reference_it_is_ppo_max(workspace: Workspace) -> None:
    """log pi_dpo = log pi_ref: the dense reward is 0 everywhere."""
    save_causal_lm(load_causal_lm(workspace.model("sft")), tiny_tokenizer(), workspace.model("dpo"))
    rto, ppo = make(workspace, RTO), make(workspace)
    rollout = roll(ppo)
    ours, theirs = (updates_of(one, rollout)[0].mini_batches[0] for one in (rto, ppo))
    torch.testing.assert_close(ours.advantages, theirs.advantages, atol=1e-6, rtol=0)


def test_validation_knows_nothing_of_the_dense_reward(
    algorithm: OnPolicy, prepared: Workspace, rollout: Rollout
) -> None:
    ours, theirs = algorithm.validate(rollout), make(prepared).validate(rollout)
    torch.testing.assert_close(ours.objective, theirs.objective)


# -- refusals -----------------------------------------------------------------------------------


def test_a_model_of_another_reference_is_refused(workspace: Workspace) -> None:
    save_causal_lm(tiny_model(9), tiny_tokenizer(), workspace.model("sft"))
    with pytest.raises(ModelError, match="trained against a reference"):
        make(workspace, RTO)


def test_a_model_of_a_stage_that_was_off_is_refused(workspace: Workspace) -> None:
    (workspace.model("dpo") / NOTE_FILE).unlink()
    (workspace.model("dpo") / OFF_FILE).write_text("{}")
    with pytest.raises(ModelError, match="stage dpo is off"):
        make(workspace, RTO)


# -- whole runs ---------------------------------------------------------------------------------


def test_a_whole_run_and_what_it_logs(workspace: Workspace) -> None:
    loop.train(tiny_settings(RTO), workspace)
    warmup, *iterations, final = numbers(workspace.steps("ppo"))
    assert "value_loss" in warmup and "validation_objective" in final
    assert [row["step"] for row in iterations] == [0, 1, 2, 3]
    for row in iterations:
        assert {"policy_loss", "value_loss", "token_reward_dpo_reward"} <= row.keys()
    assert not same_models(workspace.model("policy"), workspace.model("sft"))


@pytest.mark.long
def test_it_solves_the_bandit_of_counted_tokens(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The DPO model prefers something else, and weighs too little to lead away from the score."""
    first, last = counted_tokens.solve(workspace, monkeypatch, RTO)
    assert first < 1.0
    assert last > 5.0
