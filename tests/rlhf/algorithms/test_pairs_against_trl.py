"""xpo and online-dpo against `XPOTrainer` and `OnlineDPOTrainer` of TRL 1.12.0.

The trainers are made without their constructors and asked for what they do between sampling and
the optimiser step, with the same models and the same responses.

Where we differ on purpose; a test below shows each line marked *:

| quantity                 | TRL                                     | here                                     |
|--------------------------|-----------------------------------------|------------------------------------------|
| pairs of an iteration    | fresh ones                              | xpo: all so far, unless accumulate: false|
| pairs of equal scores *  | the policy's, or first, response wins   | count for nothing                        |
| temperature              | log p at T = 1 whatever was sampled     | log p of the distribution sampled        |
| log pi_ref               | computed at each step                   | computed once, kept with the pair        |
| alpha of a list          | by the float epoch, which no list takes | by the iteration                         |
| second draw of XPO       | the reference's                         | that, or the policy's, with a bound      |
| missing end token        | penalty on the score, if asked for      | a reward of its own: `missing-end`       |

The loss of one step is a mean over pairs on both sides.
"""

import importlib
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from given import step_loss
from hypothesis import given
from hypothesis import strategies as st
from neighbours import online_dpo, xpo
from slow_pairs import make_of_pairs, pair_update
from tiny import EOS, GOOD, PAD, prompts_of, tiny_tokenizer
from torch import Tensor

from rlhf.algorithms.online_preference import OnlinePreference
from rlhf.models.saving import load_causal_lm
from rlhf.ppo.dpo import dpo_loss, ipo_loss
from rlhf.ppo.xpo import exploration_term
from rlhf.rollout.records import Rollout, Sampled, SourceScores, make_rollout
from rlhf.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

PROMPTS = [[2, 9, 30], [2, 11], [2, 5, 6, 7, 8, 40, 41], [2, 50, 51, 52]]
WIDTH = 6
# one of each draw ran into the limit
FIRST = [[20, 21, GOOD, EOS], [22, EOS], [23, 24, EOS], [33, 34, 35, 36, 37, 38]]
SECOND = [[30, EOS], [31, GOOD, 32, 33, EOS], [GOOD, 34, 35, 36, 37, 39], [29, 28, 27, EOS]]
# neither side wins all
SCORES = torch.tensor([1.0, -0.5, 0.25, 2.0]), torch.tensor([0.5, 0.0, 0.3, -1.0])


@pytest.fixture(scope="module", autouse=True)
def silence() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        yield


@pytest.fixture(scope="module")
def xpo_module(silence: None) -> ModuleType:
    """Imported late: collecting the tests would take seconds longer in every process."""
    return importlib.import_module("trl.experimental.xpo.xpo_trainer")


@pytest.fixture(scope="module")
def online_module(silence: None) -> ModuleType:
    return importlib.import_module("trl.experimental.online_dpo.online_dpo_trainer")


def their_xpo(module: ModuleType, alpha: float, beta: float, loss: str) -> Any:
    trainer = module.XPOTrainer.__new__(module.XPOTrainer)
    trainer.args = SimpleNamespace(loss_type=loss)
    trainer._alpha, trainer._beta = alpha, beta
    return trainer


# -- the formulas -------------------------------------------------------------------------------


@given(seed=st.integers(0, 10_000), alpha=st.floats(0, 0.5), beta=st.floats(0.05, 1))
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_the_losses_agree_given_the_same_sums(
    xpo_module: ModuleType, loss: str, seed: int, alpha: float, beta: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    policy, other, reference_of_other, reference = -4 * torch.rand((4, 5, 7), generator=random)
    won = torch.rand(5, generator=random) < 0.5
    trainer = their_xpo(xpo_module, alpha, beta, loss)
    total, pairs, explored = trainer._compute_losses(
        policy, other, reference_of_other, reference, won
    )

    sums = [tokens.sum(dim=1) for tokens in (policy, other, reference, reference_of_other)]
    one, two, one_reference, two_reference = sums
    ours: Callable[..., Tensor] = ipo_loss if loss == "ipo" else dpo_loss
    losses = ours(
        torch.where(won, one, two),
        torch.where(won, two, one),
        torch.where(won, one_reference, two_reference),
        torch.where(won, two_reference, one_reference),
        beta,
    )
    torch.testing.assert_close(losses, pairs, rtol=1e-5, atol=1e-5)
    term = exploration_term(two, alpha)
    torch.testing.assert_close(term, explored, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close((losses + term).mean(), total, rtol=1e-5, atol=1e-5)


# -- a whole step, from tokens to the loss ------------------------------------------------------


class GivenScores:
    """Rewards of two draws, one after the other."""

    score_std = 1.0

    def __init__(self, scores: tuple[Tensor, Tensor]) -> None:
        self.left = list(scores)

    def read(self, rollout: Rollout) -> dict[str, SourceScores]:
        return {"given": SourceScores(self.left.pop(0))}

    def total(self, read: dict[str, SourceScores]) -> Tensor:
        return read["given"].scores


def draws(algorithm: OnlinePreference) -> list[Rollout]:
    prompts = prompts_of(PROMPTS)
    made = []
    for responses in (FIRST, SECOND):
        sampled = Sampled(responses, [[0.0] * len(response) for response in responses])
        made.append(make_rollout(prompts, sampled, EOS, PAD, algorithm.engine.device))
    return made


def ours(workspace: Workspace, changes: dict[str, Any], scores: tuple[Tensor, Tensor]) -> Any:
    """The algorithm, and the loss of its first step."""
    size = {"ppo.sampling.temperature": 1.0, "ppo.rollouts": 4, "ppo.mini_batch": 4}
    algorithm = make_of_pairs(workspace, {**size, **changes})
    device = algorithm.engine.device
    algorithm.rewards = GivenScores((scores[0].to(device), scores[1].to(device)))  # type: ignore[assignment]
    return algorithm, step_loss(pair_update(algorithm, draws(algorithm)))


def left_padded(device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(map(len, PROMPTS))
    rows = [[PAD] * (width - len(prompt)) + prompt for prompt in PROMPTS]
    ids = torch.tensor(rows, device=device)
    return ids, (ids != PAD).long()


def right_padded(responses: list[list[int]], device: torch.device) -> Tensor:
    rows = [response + [PAD] * (WIDTH - len(response)) for response in responses]
    return torch.tensor(rows, device=device)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_a_step_of_xpo_has_the_same_loss_and_gradient(
    xpo_module: ModuleType, prepared: Workspace, loss: str
) -> None:
    algorithm, found = ours(prepared, xpo(alpha=[0.2], beta=0.3, loss=loss), SCORES)
    policy = algorithm.models.language_model("policy")
    found.total.backward()
    slopes = {name: value.grad.clone() for name, value in policy.named_parameters()}

    policy.zero_grad()
    device = algorithm.engine.device
    trainer = their_xpo(xpo_module, 0.2, 0.3, loss)
    trainer.processing_class = tiny_tokenizer()
    trainer.ref_model = load_causal_lm(prepared.model("sft")).to(device)
    ids, mask = left_padded(device)
    outputs = [torch.cat([ids, right_padded(rows, device)], dim=1) for rows in (FIRST, SECOND)]
    prompts = {"input_ids": ids, "attention_mask": mask, "raw": PROMPTS}
    data = trainer._process_completions(*outputs, prompts)
    logprobs = trainer._compute_logprobs(policy, *data, ids.shape[1])
    total, pairs, explored = trainer._compute_losses(*logprobs, (SCORES[0] >= SCORES[1]).to(device))

    assert float(found.total.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    assert found.metrics["preference_loss"] == pytest.approx(float(pairs.mean().detach()), rel=1e-5)
    assert found.metrics["exploration_loss"] == pytest.approx(
        float(explored.mean().detach()), rel=1e-5
    )
    total.backward()
    for name, value in policy.named_parameters():
        torch.testing.assert_close(value.grad, slopes[name], rtol=1e-4, atol=1e-5)


def their_online_dpo(
    module: ModuleType, algorithm: OnlinePreference, workspace: Workspace, loss: str
) -> Any:
    """A trainer that can take `training_step`: its responses and scores are given."""
    device = algorithm.engine.device
    trainer = module.OnlineDPOTrainer.__new__(module.OnlineDPOTrainer)
    tokenizer = tiny_tokenizer()
    trainer.args = SimpleNamespace(
        loss_type=loss,
        use_vllm=False,
        missing_eos_penalty=None,
        torch_empty_cache_steps=None,
        optim="adamw_torch",
        n_gpu=1,
        gradient_accumulation_steps=1,
    )
    trainer._beta, trainer.max_length = 0.3, 64
    trainer._tokenizer = trainer.processing_class = tokenizer
    trainer.reward_funcs = []
    trainer.ref_model = load_causal_lm(workspace.model("sft")).to(device)
    trainer.stats = _Stats()
    trainer.accelerator = SimpleNamespace(
        gather_for_metrics=lambda value: value, backward=lambda loss: loss.backward()
    )
    ids, mask = left_padded(device)
    completions = torch.cat([right_padded(rows, device) for rows in (FIRST, SECOND)])

    def generate(model: Any, prompts: Any, images: Any) -> tuple[Tensor, ...]:
        return ids.repeat(2, 1), mask.repeat(2, 1), completions, (completions != PAD).long()

    trainer._generate = generate
    return trainer


class _Stats(dict[str, list[float]]):
    def __missing__(self, key: str) -> list[float]:
        return self.setdefault(key, [])


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_a_step_of_online_dpo_has_the_same_loss_and_gradient(
    online_module: ModuleType, prepared: Workspace, loss: str
) -> None:
    algorithm, found = ours(prepared, online_dpo(beta=0.3, loss=loss), SCORES)
    policy = algorithm.models.language_model("policy")
    found.total.backward()
    slopes = {name: value.grad.clone() for name, value in policy.named_parameters()}

    policy.zero_grad()
    trainer = their_online_dpo(online_module, algorithm, prepared, loss)
    scores = torch.cat(SCORES).to(algorithm.engine.device)
    trainer._calculate_rewards_from_functions = lambda **_: scores
    total = trainer.training_step(policy, {"prompt": ["a"] * len(PROMPTS)})
    assert float(found.total.detach()) == pytest.approx(float(total), rel=1e-5)
    for name, value in policy.named_parameters():
        torch.testing.assert_close(value.grad, slopes[name], rtol=1e-4, atol=1e-5)

    theirs = {key: values[0] for key, values in trainer.stats.items()}
    assert found.metrics["implicit_margin"] == pytest.approx(theirs["rewards/margins"], rel=1e-4)


def test_pairs_of_equal_scores_are_theirs_to_learn_from_and_not_ours(
    online_module: ModuleType, prepared: Workspace
) -> None:
    tied = SCORES[0], torch.tensor([1.0, 0.0, 0.3, -1.0])
    algorithm, found = ours(prepared, online_dpo(beta=0.3), tied)
    trainer = their_online_dpo(online_module, algorithm, prepared, "sigmoid")
    policy = algorithm.models.language_model("policy")
    trainer._calculate_rewards_from_functions = lambda **_: torch.cat(tied).to(
        algorithm.engine.device
    )
    theirs = float(trainer.training_step(policy, {"prompt": ["a"] * len(PROMPTS)}))
    without = float(found.total.detach())
    assert abs(theirs - without) > 1e-3

    # the tied pair, as they have it
    other = SCORES[0], torch.tensor([0.9, 0.0, 0.3, -1.0])
    _, found = ours(prepared, online_dpo(beta=0.3), other)
    assert float(found.total.detach()) == pytest.approx(theirs, rel=1e-5)
