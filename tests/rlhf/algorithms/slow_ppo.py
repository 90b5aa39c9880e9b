"""PPO-max on the tiny model, and the same numbers one response at a time: no padding, plain Python over its tokens."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tiny import EOS, PAD, tiny_settings

from rlhf.algorithms import Context, make_algorithm
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.core.tally import Tally
from rlhf.engine import make_engine
from rlhf.models.heads import load_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.rollout.actor import Actor
from rlhf.rollout.records import Experience, PromptBatch, Rollout
from rlhf.rollout.sampler import SamplingRule
from rlhf.workspace import Workspace

PROMPTS = [
    [2, 9, 30],
    [2, 11],
    [2, 5, 6, 7, 8, 40, 41],
    [2, 50, 51, 52],
    [2, 60],
    [2, 13, 14],
    [2, 15],
    [2, 16, 17],
]


def make(workspace: Workspace, **changes: Any) -> PpoMax:
    paths = {"ppo.sampling.temperature": 0.8} | {
        key.replace("__", "."): value for key, value in changes.items()
    }
    settings = tiny_settings(paths)
    algorithm = make_algorithm(Context(settings, workspace, make_engine(settings.engine)))
    assert isinstance(algorithm, PpoMax)
    with torch.no_grad():  # away from the reference, as after some updates
        for value in algorithm.policy().parameters():
            if value.requires_grad:
                value.add_(
                    0.02 * torch.randn(value.shape, generator=torch.Generator().manual_seed(4))
                )
    return algorithm


def roll(algorithm: PpoMax, seed: int = 1, rows: Sequence[int] = range(len(PROMPTS))) -> Rollout:
    rule = SamplingRule(max_new_tokens=9, eos_id=EOS, pad_id=PAD, temperature=0.8)
    actor = Actor(algorithm.policy(), algorithm.engine, rule, seed)
    count = len(rows)
    return actor.rollout(
        PromptBatch([PROMPTS[row] for row in rows], ["helpful"] * count, [""] * count, list(rows))
    )


@dataclass
class Row:
    """What the models say of one response, one number a token."""

    logprobs: list[float]
    reference: list[float]
    values: list[float]
    entropies: list[float]
    reward: float


@torch.no_grad()
def slow_rows(workspace: Workspace, algorithm: PpoMax, rollout: Rollout) -> list[Row]:
    reference, reward = (
        load_causal_lm(workspace.model("sft")),
        load_scalar_model(workspace.model("reward")),
    )
    critic = load_scalar_model(workspace.model("reward"))
    rows = []
    for prompt, response in zip(rollout.prompts.ids, rollout.responses, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        ours, theirs = (
            (m(input_ids=ids).logits[0] / 0.8).log_softmax(1)
            for m in (algorithm.policy(), reference)
        )
        hidden = [
            scalar.lm.base_model(input_ids=ids).last_hidden_state[0] for scalar in (critic, reward)
        ]
        before = range(
            len(prompt) - 1, len(prompt) + len(response) - 1
        )  # the state before each response token
        rows.append(
            Row(
                [float(ours[t, ids[0, t + 1]]) for t in before],
                [float(theirs[t, ids[0, t + 1]]) for t in before],
                [
                    float(critic.head(hidden[0][t])) / 0.5 for t in before
                ],  # unit scale: the reward model's note says 0.5
                [-sum(p * math.log(p) for p in ours[t].exp().tolist()) for t in before],
                float(reward.head(hidden[1][-1])),
            )
        )
    return rows


def slow_advantages(row: Row, score: float, eta: float, gamma: float, lam: float) -> list[float]:
    rewards = [-eta * (p - r) for p, r in zip(row.logprobs, row.reference, strict=True)]
    rewards[-1] += score
    after = [*row.values[1:], 0.0]
    deltas = [
        r + gamma * later - now for r, later, now in zip(rewards, after, row.values, strict=True)
    ]
    count = len(deltas)
    return [
        sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, count)) for t in range(count)
    ]


def flat(rows: list[list[float]]) -> list[float]:
    return [value for row in rows for value in row]


def policy_loss(algorithm: PpoMax, experience: Experience) -> tuple[float, dict[str, float]]:
    tally = Tally()
    total = sum(
        float(loss().detach()) for loss in algorithm.losses("policy", 0, experience, None, tally)
    )
    return total, tally.means(lambda value: value)
