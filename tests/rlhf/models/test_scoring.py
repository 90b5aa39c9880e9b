"""Scoring responses outside of a training loop."""

import pytest
import torch
from tiny import tiny_settings

from rlhf.engine import Engine, make_engine
from rlhf.models.heads import load_scalar_model
from rlhf.models.scoring import ResponseScorer
from rlhf.settings.training import EngineSettings
from rlhf.workspace import Workspace

PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41]]
RESPONSES = [[12, 13, 14, 1], [15, 1], [16]]


@pytest.fixture
def engine() -> Engine:
    return make_engine(tiny_settings().engine)


@torch.no_grad()
def slow_scores(workspace: Workspace) -> list[float]:
    """One sequence at a time: the head on the last hidden state."""
    model = load_scalar_model(workspace.model("reward"))
    scores = []
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        hidden = model.lm.base_model(input_ids=ids).last_hidden_state[0, -1]
        scores.append(float(model.head(hidden)))
    return scores


def test_scores_are_those_of_each_response_alone(prepared: Workspace, engine: Engine) -> None:
    scorer = ResponseScorer.load(prepared.model("reward"), engine)
    found = scorer.scores(PROMPTS, RESPONSES)
    assert found == pytest.approx(slow_scores(prepared), abs=1e-5)
    assert scorer.scores(PROMPTS[1:2], RESPONSES[1:2]) == pytest.approx(found[1:2], abs=1e-5)


def test_unit_scale_divides_by_the_std_that_the_model_notes(
    prepared: Workspace, engine: Engine
) -> None:
    scorer = ResponseScorer.load(prepared.model("reward"), engine, unit_scale=True)
    expected = [score / 0.5 for score in slow_scores(prepared)]
    assert scorer.scores(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-5)


def test_the_model_is_frozen(prepared: Workspace, engine: Engine) -> None:
    scorer = ResponseScorer.load(prepared.model("reward"), engine)
    assert not any(value.requires_grad for value in scorer.model.parameters())
    assert not scorer.model.training


def test_any_token_pads(prepared: Workspace, engine: Engine) -> None:
    scorer = ResponseScorer.load(prepared.model("reward"), engine)
    expected = scorer.scores(PROMPTS, RESPONSES)
    for pad_token in (None, 33):
        scorer.model.lm.config.pad_token_id = pad_token
        assert scorer.pad_id == (pad_token or 0)
        assert scorer.scores(PROMPTS, RESPONSES) == pytest.approx(expected, abs=1e-5)


def test_scores_are_in_the_engine_s_precision(prepared: Workspace) -> None:
    engine = make_engine(EngineSettings(threads=1, precision="bf16"))
    found = ResponseScorer.load(prepared.model("reward"), engine).scores(PROMPTS, RESPONSES)
    exact = slow_scores(prepared)
    assert found != exact
    assert found == pytest.approx(exact, abs=0.1)
