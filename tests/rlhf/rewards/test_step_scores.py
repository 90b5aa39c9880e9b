"""What a process reward model says of given responses, and the best of n by it."""

from pathlib import Path

import pytest
import torch
from neighbours import PROCESS_MODEL
from tiny import BAD, EOS, GOOD, START, copy_workspace, tiny_settings, tiny_tokenizer
from torch import Tensor

from rlhf.batches.padding import pad_responses
from rlhf.common.errors import ModelError
from rlhf.common.files import write_json
from rlhf.engine import make_engine
from rlhf.models.heads import load_scalar_model
from rlhf.models.roles import Models
from rlhf.ppo.steps import Aggregate
from rlhf.rewards.step_scores import StepScorer
from rlhf.training import process
from rlhf.workspace import OFF_FILE, Workspace

PROMPTS = [[START, 30], [START, 30], [START, 31, 32], [START, 31, 32]]
RESPONSES = [[20, 10, 21, EOS], [40, 41, 12, 42, 11, 43], [50, 51], [60, 19, EOS]]
ENDS = [[1, 3], [2, 4], [], [1, 2]]


def scorer(workspace: Workspace, micro_batch: int = 8) -> StepScorer:
    engine = make_engine(tiny_settings().engine)
    return StepScorer.load(workspace.model("process"), engine, micro_batch)


@torch.no_grad()
def slow(workspace: Workspace) -> list[list[float]]:
    """One response at a time: the probability at each step end."""
    model = load_scalar_model(workspace.model("process"))
    found = []
    for prompt, response, ends in zip(PROMPTS, RESPONSES, ENDS, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        hidden = model.lm.base_model(input_ids=ids).last_hidden_state[0]
        found.append([float(model.head(hidden[len(prompt) + end]).sigmoid()) for end in ends])
    return found


def response_mask() -> Tensor:
    lengths = torch.tensor([len(response) for response in RESPONSES])
    return torch.arange(6)[None] < lengths[:, None]


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_probabilities_equal_a_loop_over_responses(prepared: Workspace, micro_batch: int) -> None:
    batch = pad_responses(PROMPTS, RESPONSES, 0)
    steps = scorer(prepared, micro_batch).read(batch, RESPONSES, response_mask())
    for row, (ends, expected) in enumerate(zip(ENDS, slow(prepared), strict=True)):
        assert steps.ends[row].nonzero().flatten().tolist() == ends
        assert steps.probabilities[row][steps.ends[row]].tolist() == pytest.approx(
            expected, abs=1e-6
        )
    assert bool((steps.probabilities[~steps.ends] == 0).all())


def test_a_response_may_end_with_any_end_token_of_the_model(workspace: Workspace) -> None:
    write_json(workspace.model("process") / "generation_config.json", {"eos_token_id": [EOS, 43]})
    steps = scorer(workspace).read(pad_responses(PROMPTS, RESPONSES, 0), RESPONSES, response_mask())
    found = [row.nonzero().flatten().tolist() for row in steps.ends]
    # the second one was cut, were 43 any token
    assert found == [ENDS[0], [*ENDS[1], 5], *ENDS[2:]]


@pytest.mark.parametrize("aggregate", ["min", "product", "last"])
def test_the_best_of_two_is_that_of_the_slow_scores(
    prepared: Workspace, aggregate: Aggregate
) -> None:
    one = scorer(prepared)
    batch = pad_responses(PROMPTS, RESPONSES, 0)
    scores = one.read(batch, RESPONSES, response_mask()).scores(aggregate).tolist()
    of = {
        "min": lambda p: min(p, default=0.0),
        "product": lambda p: torch.tensor(p).prod().item() if p else 0.0,
        "last": lambda p: p[-1] if p else 0.0,
    }[aggregate]
    expected = [of(p) for p in slow(prepared)]
    assert scores == pytest.approx(expected, abs=1e-6)
    rows = one.best_of_n(PROMPTS, RESPONSES, 2, aggregate)
    assert rows == [0 if expected[0] > expected[1] else 1, 3]


def test_a_trained_model_ranks_right_answers_first(prepared: Workspace, tmp_path: Path) -> None:
    """Of answers with a wrong step and one without, by the model that stage process makes."""
    workspace = copy_workspace(prepared, tmp_path / "learnt")
    process.train(tiny_settings(PROCESS_MODEL), workspace)
    right = [50, GOOD, 10, 51, GOOD, EOS]
    wrong = [50, GOOD, 10, 51, BAD, EOS]
    early = [50, BAD, 10, 51, GOOD, EOS]
    responses = [wrong, right, early, early, wrong, right]
    rows = scorer(workspace).best_of_n([[START, 30]] * 6, responses, 3)
    assert rows == [1, 5]


def test_another_tokenizer_is_refused(workspace: Workspace) -> None:
    engine = make_engine(tiny_settings().engine)
    other = tiny_tokenizer()
    other.add_tokens(["new"])
    with pytest.raises(ModelError, match=r"models/process: its tokenizer is not the policy's"):
        StepScorer(Models(engine, None), workspace.model("process"), other, 4)


def test_what_is_no_process_reward_model_is_refused(workspace: Workspace) -> None:
    engine = make_engine(tiny_settings().engine)
    with pytest.raises(ModelError, match=r"models/reward: not a process reward model"):
        StepScorer.load(workspace.model("reward"), engine)
    # what a stage that is off leaves
    off = workspace.model("elsewhere")
    off.mkdir()
    write_json(off / OFF_FILE, {"stage": "process"})
    with pytest.raises(ModelError, match=r"stage process is off .*--variant process"):
        StepScorer.load(off, engine)
