"""ETPO on the tiny model, and its numbers one state at a time: plain Python over the vocabulary."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from neighbours import ETPO
from slow_ppo import logprobs_of, make, move
from torch import Tensor, nn

from rlhf.algorithms.etpo import Etpo
from rlhf.models.action_values import polyak_update
from rlhf.models.saving import load_causal_lm
from rlhf.rollout.records import Rollout
from rlhf.workspace import Workspace

BETA = 0.1


def made(prepared: Workspace, changes: Mapping[str, Any] | None = None) -> Etpo:
    """Policy, critic and target network have moved, as after some updates, and all differ."""
    algorithm = make(prepared, {**ETPO, **(changes or {})})
    assert isinstance(algorithm, Etpo)
    critic = algorithm.models["critic"]
    move(critic, seed=7, size=0.1)
    polyak_update(algorithm.models["target"], critic, 0.5)
    move(critic, seed=8, size=0.1)
    return algorithm


def section(**changes: Any) -> dict[str, Any]:
    return {"ppo.etpo": {**ETPO["ppo.etpo"], **changes}}


# -- one state at a time ------------------------------------------------------------------------


@dataclass(frozen=True)
class SlowState:
    """A state: a probability, a log-ratio and two action values for each token of the vocabulary.

    taken: the token that the response went on with
    """

    probabilities: list[float]
    log_ratios: list[float]
    critic: list[float]
    target: list[float]
    taken: int

    def value(self, q: list[float]) -> float:
        """E_pi[Q] - beta KL, a sum over the vocabulary."""
        columns = zip(self.probabilities, q, self.log_ratios, strict=True)
        return sum(p * (each - BETA * ratio) for p, each, ratio in columns)

    @property
    def kl(self) -> float:
        columns = zip(self.probabilities, self.log_ratios, strict=True)
        return sum(p * ratio for p, ratio in columns)

    @property
    def spread(self) -> float:
        """The standard deviation of the critic's Q over the policy's tokens."""
        pairs = list(zip(self.probabilities, self.critic, strict=True))
        average = sum(p * q for p, q in pairs)
        return math.sqrt(sum(p * (q - average) ** 2 for p, q in pairs))


@torch.no_grad()
def slow_states(workspace: Workspace, algorithm: Etpo, rollout: Rollout) -> list[list[SlowState]]:
    """The states before the tokens of each response, with the models as they are now."""
    policy, critic, target = (
        algorithm.models.language_model(role) for role in ("policy", "critic", "target")
    )
    reference = load_causal_lm(workspace.model("sft"))
    responses = []
    for prompt, response in zip(rollout.prompts.ids, rollout.responses, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        ours, theirs = logprobs_of(policy, ids), logprobs_of(reference, ids)
        values, slow_values = q_of(critic, ids), q_of(target, ids)
        states = []
        for place, token in enumerate(response, start=len(prompt)):
            before = place - 1
            state = SlowState(
                probabilities=ours[before].exp().tolist(),
                log_ratios=(ours[before] - theirs[before]).tolist(),
                critic=values[before].tolist(),
                target=slow_values[before].tolist(),
                taken=token,
            )
            states.append(state)
        responses.append(states)
    return responses


def q_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Q of every token at every place of one sequence, [T, V]; no temperature divides it."""
    hidden = model.base_model(input_ids=ids).last_hidden_state[0]
    weight: Tensor = model.get_output_embeddings().weight
    return hidden @ weight.T


def slow_targets(states: list[SlowState], score: float) -> list[float]:
    """The soft value of the state after each token; after the last one, the score."""
    return [state.value(state.target) for state in states[1:]] + [score]
