import torch
from tiny import EOS, PAD, prompts_of

from rlhf.rollout.records import Experience, Rollout, Sampled, make_rollout


def rollout_by_hand() -> Rollout:
    prompts = prompts_of([[2, 9, 10], [2]])
    sampled = Sampled([[7, EOS], [8, 8, 8]], [[-0.5, -0.25], [-1.0, -2.0, -3.0]])
    return make_rollout(prompts, sampled, EOS, PAD, torch.device("cpu"))


def experience_by_hand() -> Experience:
    """The fields hold 0 to 5, 10 to 15, 20 to 25 and so on, in their order."""
    rollout = rollout_by_hand()
    numbers = torch.arange(6.0).reshape(2, 3)
    old, reference, values, advantages, returns = (numbers + 10 * n for n in range(5))
    return Experience(
        rollout.batch, rollout.response_mask, old, reference, values, advantages, returns
    )


def test_a_rollout_by_hand() -> None:
    rollout = rollout_by_hand()
    assert rollout.batch.input_ids.tolist() == [[2, 9, 10, 7, EOS], [2, 8, 8, 8, PAD]]
    targets = [[False] * 3 + [True] * 2, [False, True, True, True, False]]
    assert rollout.batch.target_mask.tolist() == targets
    assert rollout.response_mask.tolist() == [[True, True, False], [True] * 3]
    assert rollout.sampler_logprobs.tolist() == [[-0.5, -0.25, 0.0], [-1.0, -2.0, -3.0]]
    assert rollout.finished.tolist() == [True, False]
    assert rollout.lengths.tolist() == [2, 3]
    assert len(rollout) == 2


def test_a_selection_has_no_padding_that_none_of_its_rows_needs() -> None:
    experience = experience_by_hand()
    first = experience.select(torch.tensor([0]))
    assert (len(experience), len(first)) == (2, 1)
    assert first.batch.input_ids.tolist() == [[2, 9, 10, 7, EOS]]
    assert first.response_mask.tolist() == [[True, True]]
    assert first.old_logprobs.tolist() == [[0.0, 1.0]]
    assert first.reference_logprobs.tolist() == [[10.0, 11.0]]
    assert first.old_values.tolist() == [[20.0, 21.0]]
    assert first.advantages.tolist() == [[30.0, 31.0]]
    assert first.returns.tolist() == [[40.0, 41.0]]

    second = experience.select(torch.tensor([1]))
    assert second.batch.input_ids.tolist() == [[2, 8, 8, 8]]
    assert second.old_logprobs.tolist() == [[3.0, 4.0, 5.0]]


def test_a_split_keeps_the_order() -> None:
    experience = experience_by_hand()
    first, second = experience.split(1)
    assert first.returns.tolist() == [[40.0, 41.0]]
    assert second.returns.tolist() == [[43.0, 44.0, 45.0]]
    (both,) = experience.split(2)
    assert torch.equal(both.returns, experience.returns)


def test_the_evidence_is_fit_for_json_whatever_the_numbers() -> None:
    experience = experience_by_hand()
    experience.advantages[0, 0] = float("nan")
    evidence = experience.evidence()
    assert evidence["input_ids"] == [[2, 9, 10, 7, EOS], [2, 8, 8, 8, PAD]]
    assert evidence["advantages"][0] == ["nan", "31.0", "32.0"]
