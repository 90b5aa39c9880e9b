from collections import Counter

import pandas as pd
import pytest
import torch
from tiny import EOS, PAD, tiny_model

from rlhf.engine import make_engine
from rlhf.rollout.actor import Actor, PromptStream
from rlhf.rollout.records import Experience, PromptBatch, make_rollout
from rlhf.rollout.sampler import Sampled, SamplingRule
from rlhf.settings.training import EngineSettings

RULE = SamplingRule(max_new_tokens=6, eos_id=EOS, pad_id=PAD)


@pytest.fixture
def stream() -> PromptStream:
    table = pd.DataFrame({"prompt_ids": [[2, 5 + n] for n in range(7)], "kind": ["helpful"] * 7})
    return PromptStream(table, [f"prompt {n}" for n in range(7)], seed=1)


def test_every_prompt_comes_once_an_epoch_in_changing_order(stream: PromptStream) -> None:
    texts = [text for iteration in range(7) for text in stream.take(iteration, 3).texts]
    epochs = [texts[:7], texts[7:14], texts[14:]]
    assert all(Counter(epoch) == Counter(f"prompt {n}" for n in range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_any_iteration_can_be_asked_for_alone(stream: PromptStream) -> None:
    later = PromptStream(stream._table, stream._texts, seed=1).take(5, 3)
    for iteration in range(5):
        stream.take(iteration, 3)
    assert stream.take(5, 3) == later


def test_processes_share_an_iteration_without_overlap(stream: PromptStream) -> None:
    whole, parts = stream.take(2, 6), [stream.take(2, 6, None, rank, 3) for rank in range(3)]
    assert [row for part in parts for row in part.rows] == whole.rows
    assert [ids for part in parts for ids in part.ids] == whole.ids
    halves = [
        stream.take(2, 8, 4, rank, 2).rows for rank in range(2)
    ]  # two mini-batches of four over two processes
    assert halves == [[16, 17, 20, 21], [18, 19, 22, 23]]
    fixed = [row for rank in range(3) for row in stream.first(5, rank, 3).rows]
    assert sorted(fixed) == stream.first(5).rows == list(range(5))
    assert stream.first(100).rows == list(range(7))


def test_a_row_answers_the_same_on_any_process() -> None:
    actor = Actor(tiny_model(5, spread=0.2), make_engine(EngineSettings(threads=1)), RULE, seed=1)
    prompts = PromptBatch(
        [[2, 9], [2, 10, 11], [2, 12]], ["helpful"] * 3, ["a", "b", "c"], [40, 41, 42]
    )
    second = PromptBatch([[2, 10, 11]], ["helpful"], ["b"], [41])
    together, alone = actor.rollout(prompts, "rollout", 0), actor.rollout(second, "rollout", 0)
    assert alone.responses[0] == together.responses[1]
    assert actor.rollout(prompts, "rollout", 1).responses != together.responses


def test_the_bf16_copy_follows_the_policy_once_refreshed() -> None:
    policy = tiny_model(5, spread=0.2)
    actor = Actor(policy, make_engine(EngineSettings(threads=1, precision="bf16")), RULE, seed=1)
    prompts = PromptBatch([[2, 9]] * 8, ["helpful"] * 8, [""] * 8, list(range(8)))
    before = actor.rollout(prompts, "x").responses
    assert actor._copy is not None
    assert {value.dtype for value in actor._copy.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in actor._copy.buffers()} == {
        torch.float32
    }  # rotary frequencies are not rounded
    with torch.no_grad():
        for value in policy.parameters():
            value.copy_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) * 0.2)
    assert actor.rollout(prompts, "x").responses == before
    actor.refresh()
    assert actor.rollout(prompts, "x").responses != before
    assert all(
        value.dtype == torch.float32 and value.requires_grad for value in policy.parameters()
    )


def test_a_rollout_by_hand() -> None:
    prompts = PromptBatch([[2, 9, 10], [2]], ["helpful"] * 2, ["a", "b"], [0, 1])
    sampled = Sampled([[7, EOS], [8, 8, 8]], [[-0.5, -0.25], [-1.0, -2.0, -3.0]])
    rollout = make_rollout(prompts, sampled, EOS, PAD, torch.device("cpu"))
    assert rollout.batch.input_ids.tolist() == [[2, 9, 10, 7, EOS], [2, 8, 8, 8, PAD]]
    assert rollout.batch.target_mask.tolist() == [
        [False] * 3 + [True] * 2,
        [False, True, True, True, False],
    ]
    assert rollout.response_mask.tolist() == [[True, True, False], [True] * 3]
    assert rollout.sampler_logprobs.tolist() == [[-0.5, -0.25, 0.0], [-1.0, -2.0, -3.0]]
    assert rollout.finished.tolist() == [True, False]
    assert rollout.lengths.tolist() == [2, 3]
    numbers = torch.arange(6.0).reshape(2, 3)
    experience = Experience(
        rollout.batch, rollout.response_mask, *(numbers + 10 * n for n in range(4))
    )
    part = experience.select(torch.tensor([0]))
    assert len(experience) == 2 and len(part) == 1
    assert part.batch.input_ids.tolist() == [[2, 9, 10, 7, EOS]]
    assert part.response_mask.tolist() == [[True, True]]  # no padding is left
    assert part.old_values.tolist() == [[10.0, 11.0]] and part.returns.tolist() == [[30.0, 31.0]]
    second = experience.select(torch.tensor([1]))
    assert second.batch.input_ids.tolist() == [[2, 8, 8, 8]]
    assert second.old_logprobs.tolist() == [[3.0, 4.0, 5.0]]
