"""Pairs of sampled responses: ranking, ties, batches, and what a checkpoint holds of them."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import EOS, PAD, prompts_of
from torch import Tensor

from rlhf.engine.state import load_state, save_state
from rlhf.rollout.records import Rollout, Sampled, Scores, SourceScores, make_rollout
from rlhf.rollout.sampled_pairs import (
    SampledPair,
    pair_experience,
    pairs_from_state,
    pairs_state,
    preferences_of_scores,
    ranked_pairs,
)

CPU = torch.device("cpu")
PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7]]
FIRST = [[20, 21, EOS], [22, EOS], [23, 24, 25, EOS]]
SECOND = [[30, EOS], [22, EOS], [33, 34, EOS]]


def rollout_of(responses: list[list[int]], positions: Sequence[int] = (0, 1, 2)) -> Rollout:
    logprobs = [[-1.0] * len(response) for response in responses]
    prompts = prompts_of(PROMPTS, positions=positions)
    return make_rollout(prompts, Sampled(responses, logprobs), EOS, PAD, CPU)


def scores_of(rollout: Rollout, scores: Sequence[float], reference: float) -> Scores:
    """log pi_ref of every token is `reference`."""
    mask = rollout.response_mask
    nothing = torch.zeros(mask.shape)
    return Scores(torch.tensor(scores), nothing, reference * mask, nothing, nothing)


def pairs_with(first: Sequence[float], second: Sequence[float]) -> list[SampledPair]:
    one, other = rollout_of(FIRST), rollout_of(SECOND)
    return by_scores(one, other, scores_of(one, first, -0.5), scores_of(other, second, -2.0))


def by_scores(first: Rollout, second: Rollout, *scores: Scores) -> list[SampledPair]:
    return ranked_pairs(first, second, *scores, preferences_of_scores(*scores))


def test_the_better_response_is_the_chosen_one() -> None:
    won, same, lost = pairs_with([1.0, 3.0, 0.5], [0.0, 2.9, 0.6])
    assert won == SampledPair([2, 9, 30], FIRST[0], SECOND[0], -1.5, -4.0, False, 1.0)
    assert lost == SampledPair([2, 5, 6, 7], SECOND[2], FIRST[2], -6.0, -2.0, True, 1.0)
    # whatever its scores say: they are apart by rounding alone
    assert (same.weight, same.second_is_chosen) == (0.0, False)
    assert same.chosen == same.rejected == FIRST[1]


def test_a_tie_counts_for_nothing_and_keeps_its_place() -> None:
    pairs = pairs_with([1.0, 0.0, 0.25], [1.0, 1.0, 0.25])
    assert [pair.weight for pair in pairs] == [0.0] * 3
    assert [pair.second_is_chosen for pair in pairs] == [False] * 3
    assert [pair.chosen for pair in pairs] == FIRST


def test_a_response_that_a_reward_could_not_judge_neither_wins_nor_loses() -> None:
    """Its score is 0, which is above one of -1; where both were not judged, the others decide."""
    one, other = rollout_of(FIRST), rollout_of([[30, EOS], [31, EOS], [33, 34, EOS]])
    failed = [True, False, True], [False, False, True]
    found = [
        replace(
            scores_of(each, scores, 0.0),
            sources={"http": SourceScores(torch.zeros(3), torch.tensor(own))},
        )
        for each, scores, own in zip(
            (one, other), ([0.0, 0.5, 0.2], [-1.0, 0.4, 0.1]), failed, strict=True
        )
    ]
    assert [pair.weight for pair in by_scores(one, other, *found)] == [0.0, 1.0, 1.0]


def test_draws_of_other_prompts_are_refused() -> None:
    one, other = rollout_of(FIRST), rollout_of(SECOND, positions=[0, 1, 3])
    scores = [scores_of(each, [0.0] * 3, 0.0) for each in (one, other)]
    with pytest.raises(ValueError, match="of the same prompts"):
        by_scores(one, other, *scores)


def test_any_preferences_rank_whatever_the_scores_say() -> None:
    one, other = rollout_of(FIRST), rollout_of([[30, EOS], [31, EOS], [33, 34, EOS]])
    scores = [scores_of(each, [0.0] * 3, -1.0) for each in (one, other)]
    won, lost, nobody = ranked_pairs(one, other, *scores, ["first", "second", None])
    assert won.chosen == FIRST[0] and not won.second_is_chosen and won.weight == 1.0
    assert lost.rejected == FIRST[1] and lost.second_is_chosen and lost.weight == 1.0
    assert nobody.chosen == FIRST[2] and not nobody.second_is_chosen and nobody.weight == 0.0


# -- batches ------------------------------------------------------------------------------------


def targets(batch_rows: Tensor, mask: Tensor) -> list[list[int]]:
    return [row[keep].tolist() for row, keep in zip(batch_rows, mask, strict=True)]


def test_the_rows_of_a_pair_lie_side_by_side() -> None:
    experience = pair_experience(pairs_with([1.0, 3.0, 0.5], [0.0, 2.9, 0.6]), PAD, CPU)
    batch = experience.batch
    assert len(experience) == 3
    assert targets(batch.input_ids, batch.target_mask) == [
        FIRST[0],
        SECOND[0],
        FIRST[1],
        SECOND[1],
        SECOND[2],
        FIRST[2],
    ]
    whole = targets(batch.input_ids, batch.attention_mask)
    assert whole[5] == PROMPTS[2] + FIRST[2]
    assert experience.reference_logprobs.tolist() == [[-1.5, -4.0], [-1.0, -4.0], [-6.0, -2.0]]
    assert experience.second_is_chosen.tolist() == [False, False, True]
    assert experience.weights.tolist() == [1.0, 0.0, 1.0]


def test_a_selection_has_whole_pairs_and_no_padding_too_many() -> None:
    experience = pair_experience(pairs_with([1.0, 3.0, 0.5], [0.0, 2.9, 0.6]), PAD, CPU)
    last, first = (experience.select(torch.tensor([place])) for place in (2, 0))
    assert targets(last.batch.input_ids, last.batch.target_mask) == [SECOND[2], FIRST[2]]
    assert last.reference_logprobs.tolist() == [[-6.0, -2.0]]
    assert last.second_is_chosen.tolist() == [True]
    assert (last.batch.width, first.batch.width) == (8, 6)

    parts = experience.split(2)
    assert [len(part) for part in parts] == [2, 1]
    assert parts[1].weights.tolist() == [1.0] and parts[0].weights.tolist() == [1.0, 0.0]


def test_the_evidence_is_fit_for_json() -> None:
    experience = pair_experience(pairs_with([1.0, 3.0, 0.5], [0.0, 2.9, 0.6]), PAD, CPU)
    experience.reference_logprobs[0, 0] = float("nan")
    evidence = json.loads(json.dumps(experience.evidence(), allow_nan=False))
    assert evidence["input_ids"] == experience.batch.input_ids.tolist()
    assert evidence["weights"] == [1.0, 0.0, 1.0]
    assert evidence["reference_logprobs"][0] == ["nan", "-4.0"]


# -- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_checkpoint_gives_the_pairs_back(tmp_path: Path, count: int) -> None:
    pairs = pairs_with([1.0, 3.0, 0.5], [0.0, 2.9, 0.6])[:count]
    save_state(tmp_path, "loop", {"pairs": pairs_state(pairs)})
    assert pairs_from_state(load_state(tmp_path, "loop")["pairs"]) == pairs
