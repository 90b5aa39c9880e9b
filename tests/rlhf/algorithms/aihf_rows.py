"""AIHF on the tiny model, asked without the loop, with demonstrations and pairs to learn from."""

from collections.abc import Callable, Mapping
from typing import Any

from given import GivenSources, updates_from
from neighbours import AIHF
from slow_ppo import TEMPERATURE, make, move
from tiny import EOS, PAD

from rlhf.algorithms.aihf import MOVING_REWARD, Aihf, RewardBatch
from rlhf.algorithms.base import Update
from rlhf.algorithms.scored_policy import ScoredPolicy
from rlhf.batches.tables import read_rows_of
from rlhf.models.heads import ScalarModel
from rlhf.rollout.prompts import PromptBatch
from rlhf.rollout.records import Experience, Rollout, Sampled, make_rollout
from rlhf.rollout.sampler import PolicySampler, SamplingRule, make_sampler
from rlhf.workspace import Workspace


def sources_of(
    workspace: Workspace,
    algorithm: ScoredPolicy,
    rollout: Rollout,
    responses: Callable[[PromptBatch], Rollout] | None = None,
) -> GivenSources:
    """Sources of a given rollout and the workspace's tables; given prompts get the policy's responses."""
    tables = {name: read_rows_of(workspace, name, "train") for name in ("sft", "preferences")}
    return GivenSources(rollout, tables=tables, responses=responses or answering(algorithm))


def answering(algorithm: ScoredPolicy) -> Callable[[PromptBatch], Rollout]:
    """The policy as it is, with random streams that are the same each time."""
    rule = SamplingRule(max_new_tokens=9, eos_id=EOS, pad_id=PAD, temperature=TEMPERATURE)
    engine = algorithm.engine
    sampler = make_sampler("local", algorithm.models.language_model("policy"), engine, rule)
    policy = PolicySampler(sampler, rule, 1, engine.device)
    return lambda prompts: policy.rollout(prompts, "given")


def always(algorithm: ScoredPolicy, response: list[int]) -> Callable[[PromptBatch], Rollout]:
    """The same response to every prompt."""

    def answer(prompts: PromptBatch) -> Rollout:
        count = len(prompts)
        sampled = Sampled([response] * count, [[-1.0] * len(response)] * count)
        return make_rollout(prompts, sampled, EOS, PAD, algorithm.engine.device)

    return answer


# -- aihf itself --------------------------------------------------------------------------------


def aihf(workspace: Workspace, changes: Mapping[str, Any] | None = None, **more: Any) -> Aihf:
    """The algorithm; its moving reward has moved away from the one that judges."""
    algorithm = make(workspace, {**AIHF, **(changes or {})}, **more)
    assert isinstance(algorithm, Aihf)
    move(moving_of(algorithm), seed=7)
    return algorithm


def moving_of(algorithm: Aihf) -> ScalarModel:
    model = algorithm.models[MOVING_REWARD]
    assert isinstance(model, ScalarModel)
    return model


def phases(
    algorithm: Aihf, sources: GivenSources, iteration: int = 0
) -> tuple[Update[RewardBatch], Update[Experience], Update[Experience]]:
    """The updates of an iteration: of the reward, the policy, the critic."""
    reward, policy, critic = updates_from(algorithm, sources, iteration)
    roles = [update.roles for update in (reward, policy, critic)]
    assert roles == [(MOVING_REWARD,), ("policy",), ("critic",)]
    return reward, policy, critic
