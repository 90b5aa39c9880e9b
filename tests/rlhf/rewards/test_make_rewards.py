"""What `ppo.rewards` names: one reward or a sum of several."""

from collections.abc import Iterator

import pytest
import torch
from tiny import EOS, PAD, prompts_of, tiny_settings, tiny_tokenizer, tree_of
from torch import Tensor

from rlhf.algorithms.base import Context
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.commands.worker import main
from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.engine import make_engine
from rlhf.models.heads import load_scalar_model
from rlhf.models.roles import Models
from rlhf.registry import REWARDS
from rlhf.rewards.base import RewardContext, RewardSum, make_rewards
from rlhf.rewards.model import ModelReward
from rlhf.rollout.records import Rollout, Sampled, make_rollout
from rlhf.settings import Settings, preset_text, settings_from
from rlhf.stages import STAGES
from rlhf.workspace import Workspace


class Length:
    """`length:2`: two for each token of the response."""

    score_std = 1.2

    def __init__(self, context: RewardContext, detail: str) -> None:
        self.weight = float(detail)

    def scores(self, rollout: Rollout) -> Tensor:
        return self.weight * rollout.lengths.float()


@pytest.fixture(autouse=True)
def length_is_known(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(REWARDS, "length", f"{__name__}:Length")
    yield


@pytest.fixture
def rollout() -> Rollout:
    prompts = prompts_of([[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41]])
    responses = [[12, 13, 14, EOS], [15, EOS], [16]]
    sampled = Sampled(responses, [[0.0] * len(response) for response in responses])
    return make_rollout(prompts, sampled, EOS, PAD, torch.device("cpu"))


def addresses_of(settings: Settings) -> list[str]:
    return [source.reward for source in settings.ppo.rewards]


def context_of(workspace: Workspace, settings: Settings) -> RewardContext:
    models = Models(make_engine(settings.engine), None)
    return RewardContext(settings, workspace, models, tiny_tokenizer())


def rewards_of(workspace: Workspace, *addresses: str) -> RewardSum:
    settings = tiny_settings({"ppo.rewards": list(addresses), "ppo.micro_batch": 2})
    return make_rewards(context_of(workspace, settings))


def total_of(rewards: RewardSum, rollout: Rollout) -> Tensor:
    return rewards.total(rewards.read(rollout))


@torch.no_grad()
def slow_scores(workspace: Workspace, rollout: Rollout) -> list[float]:
    """The reward model's head at the last token, one response at a time."""
    model = load_scalar_model(workspace.model("reward"))
    scores = []
    for prompt, response in zip(rollout.prompts.ids, rollout.responses, strict=True):
        ids = torch.tensor([[*prompt, *response]])
        hidden = model.lm.base_model(input_ids=ids).last_hidden_state[0, -1]
        scores.append(float(model.head(hidden)))
    return scores


# -- the reward model ---------------------------------------------------------------------------


def test_the_reward_model_is_what_there_is_unless_told_otherwise() -> None:
    assert addresses_of(tiny_settings()) == ["model:reward"]


def test_its_scores_are_those_of_each_response_alone(prepared: Workspace, rollout: Rollout) -> None:
    rewards = rewards_of(prepared, "model:reward")
    found = total_of(rewards, rollout)
    assert found.dtype == torch.float32 and not found.requires_grad
    assert found.tolist() == pytest.approx(slow_scores(prepared, rollout), abs=1e-5)
    # what its note says
    assert rewards.score_std == 0.5


def test_it_is_a_frozen_role_among_the_models(prepared: Workspace) -> None:
    """It shares the trunk with the others, where there is one."""
    context = context_of(prepared, tiny_settings())
    ModelReward(context, "reward")
    model = context.models["reward"]
    assert not any(value.requires_grad for value in model.parameters())
    assert context.models.trainers == {}


# -- several rewards ----------------------------------------------------------------------------


def test_several_rewards_are_added(prepared: Workspace, rollout: Rollout) -> None:
    rewards = rewards_of(prepared, "model:reward", "length:2")
    scores = slow_scores(prepared, rollout)
    expected = [score + 2.0 * length for score, length in zip(scores, (4, 2, 1), strict=True)]
    assert total_of(rewards, rollout).tolist() == pytest.approx(expected, abs=1e-5)
    # 0.5 and 1.2, as of independent scores
    assert rewards.score_std == pytest.approx(1.3)


def test_the_std_of_one_reward_is_its_own(prepared: Workspace) -> None:
    assert rewards_of(prepared, "length:1").score_std == 1.2


def test_the_policy_is_paid_the_sum(prepared: Workspace, rollout: Rollout) -> None:
    settings = tiny_settings({"ppo.rewards": ["model:reward", "length:2"]})
    context = Context(settings, prepared, make_engine(settings.engine), tiny_tokenizer())
    algorithm = PpoMax(context)
    validation = algorithm.validate(rollout)
    scores = slow_scores(prepared, rollout)
    expected = [score + 2.0 * length for score, length in zip(scores, (4, 2, 1), strict=True)]
    assert validation.scores.tolist() == pytest.approx(expected, abs=1e-5)


# -- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("addresses", "message"),
    [
        (["judge:gold"], "must begin with one of"),
        ([], "rewards: at least one"),
        (["model:reward", "model:reward"], "none twice"),
        ("model:reward", "must be a list"),
        # gold only judges: a policy trained against it could not be judged by it
        (["model:gold"], "ppo.rewards.0: the model to train against is model:reward"),
        (["length:2", "model:sft"], "ppo.rewards.1: the model to train against is model:reward"),
        (["model"], "(found 'model')"),
        (["model:"], "(found 'model:')"),
        (["model:reward "], "(found 'model:reward ')"),
    ],
)
def test_what_is_no_list_of_rewards_is_refused(addresses: object, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({"ppo.rewards": addresses})
    assert message in str(caught.value)


@pytest.mark.parametrize("stage", STAGES)
def test_gold_is_refused_before_anything_is_trained(
    stage: str,
    workspace: Workspace,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every stage reads the settings first, from the first on."""
    text = tiny_settings().model_dump_json(by_alias=True)
    workspace.params.write_text(text.replace("model:reward", "model:gold"), encoding="utf-8")
    monkeypatch.chdir(workspace.root)
    before = tree_of(workspace.root)
    assert main([stage]) == 1
    message = "ppo.rewards.0: the model to train against is model:reward, no other"
    assert f"{workspace.params.name}: {message}" in capsys.readouterr().err
    assert tree_of(workspace.root) == before


def test_a_settings_file_from_before_there_was_a_choice_is_still_read() -> None:
    content = parse_yaml(preset_text("tiny"), "tiny")
    content["ppo"].pop("rewards", None)
    assert addresses_of(settings_from(content)) == ["model:reward"]
