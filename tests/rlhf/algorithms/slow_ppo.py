"""On-policy algorithms on the tiny model, and their numbers one response at a time.

The slow numbers know no padding, no batches and no masks: plain Python over a response's tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tiny import EOS, PAD, prompts_of, tiny_settings, tiny_tokenizer
from torch import Tensor, nn

from rlhf.algorithms.base import Context
from rlhf.algorithms.on_policy import OnPolicy
from rlhf.algorithms.scored_policy import ScoredPolicy
from rlhf.engine import Engine, make_engine
from rlhf.models.heads import ScalarModel, load_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.registry import ALGORITHMS, find
from rlhf.rollout.records import Rollout
from rlhf.rollout.sampler import PolicySampler, SamplingRule, make_sampler
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
TEMPERATURE = 0.8
# of the random reward model of `tiny.make_workspace`
SCORE_STD = 0.5


def make(
    workspace: Workspace, changes: Mapping[str, Any] | None = None, engine: Engine | None = None
) -> OnPolicy:
    """An on-policy algorithm, as `make_scored` makes any."""
    algorithm = make_scored(workspace, changes, engine)
    assert isinstance(algorithm, OnPolicy)
    return algorithm


def make_scored(
    workspace: Workspace, changes: Mapping[str, Any] | None = None, engine: Engine | None = None
) -> ScoredPolicy:
    """The algorithm that the settings name, without plain text; one mini-batch holds all prompts.

    The policy has moved away from the reference, as after some updates.
    """
    defaults = {
        "ppo.sampling.temperature": TEMPERATURE,
        "ppo.mini_batch": len(PROMPTS),
        "ppo.ptx": None,
    }
    settings = tiny_settings({**defaults, **(changes or {})})
    context = Context(
        settings=settings,
        workspace=workspace,
        engine=engine or make_engine(settings.engine),
        tokenizer=tiny_tokenizer(),
    )
    algorithm = find(ALGORITHMS, settings.ppo.algorithm)(context)
    assert isinstance(algorithm, ScoredPolicy)
    move(algorithm.models.language_model("policy"), seed=4)
    return algorithm


@torch.no_grad()
def move(module: nn.Module, seed: int, size: float = 0.02) -> None:
    """Change what learns as some updates would."""
    for value in module.parameters():
        if value.requires_grad:
            random = torch.Generator().manual_seed(seed)
            value.add_(size * torch.randn(value.shape, generator=random))


def roll(
    algorithm: ScoredPolicy,
    seed: int = 1,
    rows: Sequence[int] = range(len(PROMPTS)),
    role: str = "policy",
) -> Rollout:
    """The model's responses to some of the prompts; a row's response depends on nothing else.

    Where the algorithm samples groups, that many rows have the same prompt, side by side.
    """
    group = algorithm.settings.responses
    rule = SamplingRule(max_new_tokens=9, eos_id=EOS, pad_id=PAD, temperature=TEMPERATURE)
    engine = algorithm.engine
    sampler = make_sampler("local", algorithm.models.language_model(role), engine, rule)
    prompts = prompts_of(
        [PROMPTS[row // group] for row in rows],
        positions=[row // group for row in rows],
        numbers=[row % group for row in rows],
    )
    return PolicySampler(sampler, rule, seed, engine.device).rollout(prompts)


# -- one response at a time ---------------------------------------------------------------------


@dataclass(frozen=True)
class SlowRow:
    """What the models say of one response; one number a token, the score apart."""

    logprobs: list[float]
    reference: list[float]
    values: list[float]
    entropies: list[float]
    score: float

    @property
    def log_ratios(self) -> list[float]:
        """log pi - log pi_ref of each token."""
        return [p - r for p, r in zip(self.logprobs, self.reference, strict=True)]


@torch.no_grad()
def slow_rows(workspace: Workspace, algorithm: ScoredPolicy, rollout: Rollout) -> list[SlowRow]:
    """Policy as it is now; reference, critic and reward model as they lie in the workspace."""
    policy = algorithm.models.language_model("policy")
    reference = load_causal_lm(workspace.model("sft"))
    # both start from the reward model: the critic is another copy of it, at unit scale
    reward = load_scalar_model(workspace.model("reward"))
    rows = []
    for prompt, response in zip(rollout.prompts.ids, rollout.responses, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        ours = logprobs_of(policy, ids)
        theirs = logprobs_of(reference, ids)
        scalars = scalars_of(reward, ids)

        # the state before each response token
        before = range(len(prompt) - 1, len(prompt) + len(response) - 1)
        row = SlowRow(
            logprobs=[float(ours[t, ids[0, t + 1]]) for t in before],
            reference=[float(theirs[t, ids[0, t + 1]]) for t in before],
            values=[scalars[t] / SCORE_STD for t in before],
            entropies=[entropy_of(ours[t]) for t in before],
            score=scalars[-1],
        )
        rows.append(row)
    return rows


def logprobs_of(model: nn.Module, ids: Tensor) -> Tensor:
    """log p of every token at every place of one sequence, [T, V], at the sampling temperature."""
    return (model(input_ids=ids).logits[0] / TEMPERATURE).log_softmax(1)


def scalars_of(model: ScalarModel, ids: Tensor) -> list[float]:
    """What the head says at every place of one sequence."""
    hidden = model.lm.base_model(input_ids=ids).last_hidden_state[0]
    return [float(model.head(state)) for state in hidden]


def entropy_of(logprobs: Tensor) -> float:
    """Entropy in nats of one distribution."""
    return -sum(p * math.log(p) for p in logprobs.exp().tolist())


def normalised_scores(rows: Sequence[SlowRow]) -> list[float]:
    """(r - mean) / std where these rows are all the history there is."""
    scores = torch.tensor([row.score for row in rows], dtype=torch.float64)
    return ((scores - scores.mean()) / scores.std()).tolist()


def slow_advantages(row: SlowRow, score: float, eta: float, lam: float = 0.95) -> list[float]:
    """Equation 9 as it is printed, gamma = 1: a sum over all later TD errors."""
    rewards = [-eta * log_ratio for log_ratio in row.log_ratios]
    rewards[-1] += score
    following = [*row.values[1:], 0.0]
    columns = zip(rewards, following, row.values, strict=True)
    deltas = [reward + later - now for reward, later, now in columns]
    count = len(deltas)
    advantages = []
    for t in range(count):
        advantages.append(sum(lam ** (k - t) * deltas[k] for k in range(t, count)))
    return advantages


def flat(rows: Sequence[Sequence[float]]) -> list[float]:
    """The numbers of all tokens, response after response."""
    return [value for row in rows for value in row]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
