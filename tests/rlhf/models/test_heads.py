import json
import math
from pathlib import Path

import pytest
import torch
from tiny import PAD, tiny_model, tiny_tokenizer

from rlhf.batches.padding import TokenBatch, pad, pad_responses
from rlhf.batches.pairs import pad_pairs
from rlhf.common.errors import ModelError
from rlhf.models.backbone import pair_hidden_states
from rlhf.models.heads import (
    HEAD_FILE,
    NOTE_FILE,
    ScalarModel,
    load_scalar_model,
    new_scalar_model,
    pair_scores,
    response_scores,
    response_values,
    save_scalar_model,
    score_std,
)
from rlhf.models.saving import load_causal_lm, save_causal_lm
from rlhf.workspace import OFF_FILE

SEQUENCES = [[2, 9, 30, 12, 1], [2, 11], [2, 5, 6, 7, 8, 40, 41]]


def batch_of(sequences: list[list[int]]) -> TokenBatch:
    return pad(sequences, [[True] * len(ids) for ids in sequences], PAD)


@pytest.fixture
def model(tmp_path: Path) -> ScalarModel:
    save_causal_lm(tiny_model(5, std=0.2), tiny_tokenizer(), tmp_path / "sft")
    return new_scalar_model(tmp_path / "sft", 1, "reward")


@torch.no_grad()
def test_the_score_is_the_head_on_the_last_hidden_state(model: ScalarModel) -> None:
    scores = response_scores(model, batch_of(SEQUENCES))
    for score, ids in zip(scores.tolist(), SEQUENCES, strict=True):
        hidden = model.lm.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
        products = zip(model.head.weight[0].tolist(), hidden.tolist(), strict=True)
        by_hand = sum(weight * state for weight, state in products)
        assert score == pytest.approx(by_hand + float(model.head.bias), abs=1e-4)


@torch.no_grad()
def test_every_position_has_the_value_of_the_state_after_its_token(model: ScalarModel) -> None:
    values = model(batch_of(SEQUENCES))
    assert values.shape == (3, 7)
    for length in range(1, 8):
        # causal: what follows does not matter
        prefix = response_scores(model, batch_of([SEQUENCES[2][:length]]))
        assert float(values[2, length - 1]) == pytest.approx(float(prefix), abs=1e-5)
    scores = response_scores(model, batch_of(SEQUENCES))
    assert float(values[0, 4]) == pytest.approx(float(scores[0]), abs=1e-6)


@torch.no_grad()
def test_a_response_s_values_are_of_the_states_before_its_tokens(model: ScalarModel) -> None:
    batch = pad_responses([[2, 9, 30], [2]], [[12, 1], [11, 13, 1]], PAD)
    values = model(batch)
    found = response_values(model, batch)
    # after 30 and 12; after 2, 11 and 13
    expected = [values[0, 2], values[0, 3], values[1, 0], values[1, 1], values[1, 2]]
    assert found.tolist() == pytest.approx([float(value) for value in expected])


@torch.no_grad()
def test_both_answers_of_a_pair_have_the_scores_of_rows_of_their_own(model: ScalarModel) -> None:
    prompts, chosen, rejected = [[2, 9], [2]], [[30, 1], [11, 12, 1]], [[31, 32, 1], [13, 1]]
    batch = pad_pairs(prompts, chosen, rejected, PAD)
    found = pair_scores(model, pair_hidden_states(model.lm, batch), batch)
    for place, answers in enumerate((chosen, rejected)):
        alone = response_scores(model, pad_responses(prompts, answers, PAD))
        torch.testing.assert_close(found[:, place], alone, atol=1e-5, rtol=0)


def test_the_head_starts_at_the_scale_that_the_paper_s_code_uses(
    tmp_path: Path, model: ScalarModel
) -> None:
    assert model.head.bias.tolist() == [0.0]
    assert float(model.head.weight.detach().std()) == pytest.approx(1 / math.sqrt(65), rel=0.3)
    again, other = (new_scalar_model(tmp_path / "sft", 1, name) for name in ("reward", "gold"))
    assert torch.equal(again.head.weight, model.head.weight)
    assert not torch.equal(other.head.weight, model.head.weight)


def test_scores_do_not_lose_digits_to_autocast(model: ScalarModel) -> None:
    hidden = torch.randn(400, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scores = model.head(hidden)
    expected = hidden @ model.head.weight[0].detach()
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    # rounded to bf16, many would tie
    assert len(set(scores.tolist())) == 400


def test_saved_and_loaded_it_gives_the_same_scores(tmp_path: Path, model: ScalarModel) -> None:
    save_scalar_model(model, tiny_tokenizer(), tmp_path / "reward", "reward", score_std=2.5)
    loaded = load_scalar_model(tmp_path / "reward")
    batch = batch_of(SEQUENCES)
    with torch.no_grad():
        assert torch.equal(response_scores(loaded, batch), response_scores(model, batch))
    assert not loaded.lm.training
    note = json.loads((tmp_path / "reward" / NOTE_FILE).read_text())
    assert (note["role"], note["score_std"]) == ("reward", 2.5)
    assert score_std(tmp_path / "reward") == 2.5

    # the language model in it stays usable by itself
    lm = load_causal_lm(tmp_path / "reward")
    assert torch.equal(lm.get_input_embeddings().weight, model.lm.get_input_embeddings().weight)


def test_a_critic_starts_at_the_scale_of_normalised_rewards(
    tmp_path: Path, model: ScalarModel
) -> None:
    with torch.no_grad():
        model.head.bias.fill_(0.3)
    save_scalar_model(model, tiny_tokenizer(), tmp_path / "reward", "reward", score_std=2.5)
    critic = load_scalar_model(tmp_path / "reward", unit_scale=True)
    batch = batch_of(SEQUENCES)
    with torch.no_grad():
        torch.testing.assert_close(critic(batch), model(batch) / 2.5)


def test_a_language_model_is_no_reward_model(tmp_path: Path, model: ScalarModel) -> None:
    with pytest.raises(ModelError, match=f"sft: no {HEAD_FILE}"):
        load_scalar_model(tmp_path / "sft")
    (tmp_path / "sft" / HEAD_FILE).write_bytes(b"cut off")
    with pytest.raises(ModelError, match=HEAD_FILE):
        load_scalar_model(tmp_path / "sft")


def test_a_model_of_a_stage_that_is_off_is_told_as_that(tmp_path: Path) -> None:
    directory = tmp_path / "reward"
    directory.mkdir()
    (directory / OFF_FILE).write_text("{}")
    with pytest.raises(ModelError, match=r"stage reward is off \(reward: null"):
        load_scalar_model(directory)
