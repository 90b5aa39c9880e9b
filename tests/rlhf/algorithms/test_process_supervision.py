"""Process supervision against a slow reference, its refusals, and whole runs."""

from typing import Any

import counted_tokens
import pytest
import torch
from given import updates_of
from neighbours import PROCESS
from slow_ppo import SCORE_STD, flat, make, mean, normalised_scores, roll, scalars_of, slow_rows
from tiny import EOS, PAD, numbers, prompts_of, same_models, tiny_settings
from torch import Tensor

from rlhf.algorithms.process import ProcessSupervision
from rlhf.models.heads import load_scalar_model
from rlhf.rollout.records import Rollout, Sampled, make_rollout
from rlhf.training import loop
from rlhf.workspace import Workspace

ETA = 0.05
RULES: list[dict[str, Any]] = [
    {"rule": "sum", "coefficient": 1.0, "score_coefficient": 0.0},
    {"rule": "difference", "coefficient": 1.0, "score_coefficient": 0.0},
    {"rule": "sum", "coefficient": 0.5, "score_coefficient": 2.0},
]
each_rule = pytest.mark.parametrize(
    "section", RULES, ids=lambda section: f"{section['rule']}-{section['score_coefficient']}"
)


def with_section(section: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {**PROCESS, "ppo.process": section, **changes}


def slow_ends(response: list[int]) -> list[int]:
    """The words w10 to w19 end a step, and so does the end token; nothing stands before a first one.

    Such a word's last digit begins the next step, which so is never empty.
    """
    return [
        place
        for place, token in enumerate(response)
        if place > 0 and (10 <= token < 20 or token == EOS)
    ]


@torch.no_grad()
def slow_probabilities(workspace: Workspace, rollout: Rollout) -> list[dict[int, float]]:
    """Of each response: place of a step end -> sigmoid of what the head says there."""
    model = load_scalar_model(workspace.model("process"))
    found = []
    for prompt, response in zip(rollout.prompts.ids, rollout.responses, strict=True):
        logits = scalars_of(model, torch.tensor([[*prompt, *response]]))
        ends = slow_ends(response)
        found.append({end: float(Tensor([logits[len(prompt) + end]]).sigmoid()) for end in ends})
    return found


def slow_paid(steps: dict[int, float], length: int, section: dict[str, Any]) -> list[float]:
    paid, before = [0.0] * length, 0.0
    for end, p in steps.items():
        paid[end] = section["coefficient"] * (p - before)
        before = p if section["rule"] == "difference" else 0.0
    return paid


def slow_gae(rewards: list[float], values: list[float], lam: float = 0.95) -> list[float]:
    following = [*values[1:], 0.0]
    deltas = [r + later - now for r, later, now in zip(rewards, following, values, strict=True)]
    count = len(deltas)
    return [sum(lam ** (k - t) * deltas[k] for k in range(t, count)) for t in range(count)]


@pytest.fixture
def algorithm(prepared: Workspace) -> ProcessSupervision:
    made = make(prepared, PROCESS)
    assert isinstance(made, ProcessSupervision)
    return made


@pytest.fixture
def rollout(algorithm: ProcessSupervision) -> Rollout:
    return roll(algorithm)


@each_rule
def test_advantages_equal_the_slow_reference(prepared: Workspace, section: dict[str, Any]) -> None:
    algorithm = make(prepared, with_section(section))
    rollout = roll(algorithm)
    rows = slow_rows(prepared, algorithm, rollout)
    steps = slow_probabilities(prepared, rollout)
    # several steps in some responses, and different numbers of them
    assert max(map(len, steps)) > 1 and len(set(map(len, steps))) > 2

    (experience,) = updates_of(algorithm, rollout)[0].mini_batches
    scores = normalised_scores(rows)
    for row, own, score, found in zip(rows, steps, scores, experience.advantages, strict=True):
        paid = slow_paid(own, len(row.values), section)
        rewards = [p - ETA * ratio for p, ratio in zip(paid, row.log_ratios, strict=True)]
        rewards[-1] += section["score_coefficient"] * score
        expected = slow_gae(rewards, row.values)
        assert found[: len(expected)].tolist() == pytest.approx(expected, abs=2e-4)


@each_rule
def test_metrics_and_objective_are_of_what_is_paid(
    prepared: Workspace, section: dict[str, Any]
) -> None:
    algorithm = make(prepared, with_section(section))
    rollout = roll(algorithm)
    steps = slow_probabilities(prepared, rollout)
    lengths = [len(response) for response in rollout.responses]
    paid = [sum(slow_paid(own, n, section)) for own, n in zip(steps, lengths, strict=True)]
    every = flat([list(own.values()) for own in steps])

    metrics = updates_of(algorithm, rollout)[0].metrics
    assert metrics["token_reward_step_scores"] == pytest.approx(mean(paid), abs=1e-5)
    assert metrics["steps"] == len(every) / len(steps)
    assert metrics["step_probability"] == pytest.approx(mean(every), abs=1e-5)
    names = {key for key in metrics if key.startswith("token_reward_")}
    final = {"token_reward_final_score"} if section["score_coefficient"] else set()
    assert names == {"token_reward_step_scores", "token_reward_kl_penalty"} | final

    validation = algorithm.validate(rollout)
    rows = slow_rows(prepared, algorithm, rollout)
    for row, own, objective in zip(rows, paid, validation.objective.tolist(), strict=True):
        scored = section["score_coefficient"] * row.score / SCORE_STD
        assert objective == pytest.approx(scored + own - ETA * sum(row.log_ratios), abs=1e-4)
    least = [min(own.values(), default=0.0) for own in steps]
    assert validation.metrics["step_min"].tolist() == pytest.approx(least, abs=1e-5)
    # the score is watched, whether it is paid or not
    assert validation.scores.tolist() == pytest.approx([row.score for row in rows], abs=1e-4)


def given_rollout(responses: list[list[int]]) -> Rollout:
    prompts = prompts_of([[2, 30 + number] for number in range(len(responses))])
    sampled = Sampled(responses, [[0.0] * len(response) for response in responses])
    return make_rollout(prompts, sampled, EOS, PAD, torch.device("cpu"))


def test_an_end_token_is_paid_and_the_cut_of_a_response_is_not(
    algorithm: ProcessSupervision,
) -> None:
    rollout = given_rollout([[20, 10, 30, EOS], [20, 10, 30, 31, 32], [EOS]])
    rewards = algorithm.token_rewards(rollout, algorithm.score(rollout)).sources["step_scores"]
    assert (rewards != 0).tolist() == [
        [False, True, False, True, False],
        [False, True, False, False, False],
        # nothing is in that step
        [False, False, False, False, False],
    ]


def test_no_response_may_have_a_step_that_ends(algorithm: ProcessSupervision) -> None:
    rollout = given_rollout([[20, 21, 22]] * 8)
    metrics = updates_of(algorithm, rollout)[0].metrics
    assert metrics["steps"] == 0 and metrics["step_probability"] is None
    assert metrics["token_reward_step_scores"] == 0
    assert algorithm.validate(rollout).metrics["step_min"].tolist() == [0.0] * 8


def test_the_process_reward_model_stays_as_it_is(
    prepared: Workspace, algorithm: ProcessSupervision
) -> None:
    assert set(algorithm.models.trainers) == {"policy", "critic"}
    assert ProcessSupervision.inputs(tiny_settings(PROCESS)).models == ("sft", "reward", "process")


# -- whole runs ---------------------------------------------------------------------------------


def test_a_whole_run_and_what_it_logs(workspace: Workspace) -> None:
    loop.train(tiny_settings(PROCESS), workspace)
    warmup, *iterations, final = numbers(workspace.steps("ppo"))
    assert [row["step"] for row in iterations] == [0, 1, 2, 3]
    for row in (warmup, *iterations):
        assert {"steps", "step_probability", "token_reward_step_scores"} <= row.keys()
    assert {"validation_step_scores", "validation_steps", "validation_step_min"} <= final.keys()
    (summary,) = numbers(workspace.metrics("ppo"))
    assert {"steps_first", "steps_last", "step_probability_last"} <= summary.keys()
    assert not same_models(workspace.model("policy"), workspace.model("sft"))


def test_micro_batches_change_no_number_of_a_run(workspace: Workspace) -> None:
    runs = []
    for size in (1, 4):
        changes = {"ppo.micro_batch": size, "ppo.iterations": 2, "ppo.optimizer.epsilon": 1e-4}
        loop.train(tiny_settings({**PROCESS, **changes}), workspace)
        runs.append(numbers(workspace.steps("ppo")))
    for one, other in zip(*runs, strict=True):
        assert one == pytest.approx(other, rel=1e-3, abs=1e-3)


@pytest.mark.long
def test_it_learns_to_write_steps_that_are_taken_for_right(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sum is milked by more steps; beside it, the score of counted tokens is still learnt."""
    steps = with_section(RULES[0], **{"ppo.kl": None})
    counted_tokens.solve(workspace, monkeypatch, steps)
    (summary,) = numbers(workspace.metrics("ppo"))
    assert summary["steps_first"] < 2 and summary["steps_last"] > 4.0


@pytest.mark.long
def test_it_solves_the_bandit_of_counted_tokens_beside_the_differences(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {"rule": "difference", "coefficient": 0.5, "score_coefficient": 1.0}
    _, last = counted_tokens.solve(workspace, monkeypatch, with_section(section))
    assert last > 5.0
