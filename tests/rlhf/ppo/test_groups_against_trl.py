"""RLOO and GRPO against the trainers of TRL 1.12.0: advantages, losses and gradients.

Both get the same models, the same responses and the same scores. Theirs are given in place of
generation and reward functions; all that follows is TRL's own code.

Where we differ on purpose; a test below shows each line marked *:

| quantity                | TRL                                            | here                                     |
|-------------------------|------------------------------------------------|------------------------------------------|
| `dapo` loss of GRPO     | by the tokens of all that was generated        | by those of the mini-batch               |
| `bnpo` loss of GRPO *   | a mean over a micro-batch's tokens             | over all tokens of the mini-batch        |
| normalised advantages * | RLOO: over responses, by std + 1e-4            | `ppo.advantage`: over tokens, by std     |
| score before all that   | as it is, or clipped                           | reparameterised and clipped (rloo)       |
| old log-probabilities   | none where no step lies between: ratio 1       | always, in the losses' micro-batches     |
| KL of GRPO *            | off by default; weighted by the ratio (DeepSeek-V3.2) | 0.04 and plain, as in the paper   |
| clip fraction           | where the clip took the gradient away          | ratios out of bounds                     |
| equal rewards           | rounding of their mean, by 1e-4                | 0 exactly                                |
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from given import gradients, step_loss, update_of
from neighbours import GRPO, RLOO
from tiny import EOS, PAD, prompts_of, tiny_settings, tiny_tokenizer
from torch import Tensor, nn

from rlhf.algorithms.base import Context, Update
from rlhf.algorithms.on_policy import OnPolicy
from rlhf.engine import make_engine
from rlhf.registry import ALGORITHMS, find
from rlhf.rollout.records import Rollout, Sampled, make_rollout
from rlhf.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

ROWS, TEMPERATURE, EPSILON, BETA = 8, 0.7, 0.05, 0.3
LENGTHS = [5, 1, 6, 2, 4, 3, 6, 2]
SCORES = [0.3, -1.0, 0.8, 0.1, 2.0, -0.4, 0.4, 0.7]


@torch.no_grad()
def move(module: nn.Module, seed: int) -> None:
    """As some updates would."""
    for value in module.parameters():
        random = torch.Generator().manual_seed(seed)
        value.add_(0.02 * torch.randn(value.shape, generator=random))


def rollout_of(responses: int) -> Rollout:
    """Groups of responses of several lengths to prompts of several lengths."""
    random = torch.Generator().manual_seed(5)
    prompts = [list(range(20, 23 + row // responses)) for row in range(ROWS)]
    answers = []
    for length in LENGTHS:
        tokens = torch.randint(5, 64, (length,), generator=random).tolist()
        # one that is as long as can be was cut
        answers.append(tokens if length == max(LENGTHS) else [*tokens[:-1], EOS])
    batch = prompts_of(
        prompts,
        positions=[row // responses for row in range(ROWS)],
        numbers=[row % responses for row in range(ROWS)],
    )
    sampled = Sampled(answers, [[0.0] * len(answer) for answer in answers])
    return make_rollout(batch, sampled, EOS, PAD, torch.device("cpu"))


@dataclass
class Outcome:
    """One step's loss and gradient, from advantages that were known before it."""

    advantages: Tensor
    loss: float
    gradient: Tensor


def flat_gradient(named: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([named[name].flatten() for name in sorted(named)])


class Duel:
    """The same policy and rollout for both; the policy moves once the rollout was scored."""

    def __init__(
        self, workspace: Workspace, folder: Path, changes: Mapping[str, Any], responses: int
    ) -> None:
        self.folder, self.responses = folder, responses
        self.rollout = rollout_of(responses)
        settings = tiny_settings(
            {
                **changes,
                "ppo.responses": responses,
                "ppo.mini_batch": ROWS,
                "ppo.micro_batch": 4,
                "ppo.sampling.temperature": TEMPERATURE,
                "ppo.surrogate_clip": EPSILON,
            }
        )
        engine = make_engine(settings.engine)
        kind = find(ALGORITHMS, settings.ppo.algorithm)
        self.algorithm: OnPolicy = kind(Context(settings, workspace, engine, tiny_tokenizer()))
        move(self.policy, seed=4)

    @property
    def policy(self) -> nn.Module:
        return self.algorithm.models.language_model("policy")

    def ours(self) -> Outcome:
        with pytest.MonkeyPatch.context() as patch:
            scores = torch.tensor(SCORES)
            patch.setattr(self.algorithm.rewards, "total", lambda _read: scores)
            update: Update[Any] = update_of(self.algorithm, "policy", self.rollout)
        (batch,) = update.mini_batches
        before = copy.deepcopy(self.policy.state_dict())
        move(self.policy, seed=6)
        loss = float(step_loss(update).total.detach())
        gradient = flat_gradient(gradients(self.algorithm, update))
        self.policy.load_state_dict(before)
        return Outcome(batch.advantages[:, 0], loss, gradient)

    def theirs(self, kind: Any, config: Any, micro_batch: int = ROWS, **settings: Any) -> Outcome:
        model = copy.deepcopy(self.policy)
        arguments = config(
            output_dir=str(self.folder),
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            report_to="none",
            per_device_train_batch_size=ROWS,
            per_device_eval_batch_size=ROWS,
            num_generations=self.responses,
            temperature=TEMPERATURE,
            epsilon=EPSILON,
            # so that what sampled is not taken for what learns
            num_iterations=2,
            **settings,
        )
        tokenizer = tiny_tokenizer()
        trainer = kind(
            model=model,
            # never called: the scores are given
            reward_funcs=len,
            args=arguments,
            train_dataset=Dataset.from_list([{"prompt": "w20"}] * ROWS),
            processing_class=tokenizer,
        )
        # models without dropout; and no gradients are gathered over several batches
        trainer.model.eval()
        prompts, responses = self.rollout.prompts.ids, self.rollout.responses
        texts = tokenizer.batch_decode(responses)
        given = (prompts, responses, texts)
        if "grpo" in kind.__name__.lower():
            # neither tools nor log-probabilities of another sampler, further columns or pictures
            given = (prompts, responses, None, texts, None, {}, None, None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "_generate", lambda _prompts: given)
            scores = torch.tensor(SCORES)[:, None]
            patch.setattr(trainer, "_calculate_rewards", lambda *_: scores)
            inputs = trainer._generate_and_score_completions([{"prompt": "w20"}] * ROWS)
        move(trainer.model, seed=6)
        parts = []
        for start in range(0, ROWS, micro_batch):
            part = dict(inputs)
            for key, value in inputs.items():
                if value.dim():
                    part[key] = value[start : start + micro_batch]
            parts.append(trainer._compute_loss(trainer.model, part))
        loss = torch.stack(parts).mean()
        loss.backward()
        named = trainer.model.named_parameters()
        slopes = {name: value.grad for name, value in named if value.grad is not None}
        return Outcome(inputs["advantages"], float(loss.detach()), flat_gradient(slopes))


@pytest.fixture
def duel(prepared: Workspace, tmp_path: Path) -> Callable[..., Duel]:
    def make(changes: Mapping[str, Any], responses: int) -> Duel:
        return Duel(prepared, tmp_path, changes, responses)

    return make


def rloo(pair: Duel, **settings: Any) -> Outcome:
    from trl import RLOOConfig, RLOOTrainer

    return pair.theirs(RLOOTrainer, RLOOConfig, **settings)


def grpo(pair: Duel, **settings: Any) -> Outcome:
    from trl import GRPOConfig, GRPOTrainer

    return pair.theirs(GRPOTrainer, GRPOConfig, **settings)


def assert_same(ours: Outcome, theirs: Outcome) -> None:
    """To 1e-5, the gradient to 1e-5 of itself."""
    torch.testing.assert_close(ours.advantages, theirs.advantages, rtol=1e-5, atol=1e-5)
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-5, abs=1e-5)
    assert ours.gradient.shape == theirs.gradient.shape
    distance = (ours.gradient - theirs.gradient).norm() / theirs.gradient.norm()
    assert float(distance) < 1e-5


RAW: Mapping[str, Any] = {"ppo.reward": {"normalise": None, "scale": None, "clip": None}}
PENALISED: Mapping[str, Any] = {
    **RLOO,
    **RAW,
    "ppo.kl": {"coefficient": BETA, "estimator": "k1"},
}


@pytest.mark.parametrize("responses", [2, 4])
@pytest.mark.parametrize("beta", [0.0, BETA])
def test_rloo_agrees(duel: Callable[..., Duel], responses: int, beta: float) -> None:
    changes = PENALISED if beta else {**PENALISED, "ppo.kl": None}
    pair = duel(changes, responses)
    assert_same(pair.ours(), rloo(pair, beta=beta))


@pytest.mark.parametrize(
    ("responses", "scale", "loss"),
    [(2, "group", "token"), (4, "batch", "sequence"), (4, None, "token"), (4, "group", "sequence")],
)
def test_grpo_agrees(
    duel: Callable[..., Duel], responses: int, scale: str | None, loss: str
) -> None:
    section = {"kl_coefficient": BETA, "scale": scale, "loss": loss}
    pair = duel({**GRPO, "ppo.grpo": section}, responses)
    theirs = grpo(
        pair,
        beta=BETA,
        scale_rewards=scale or "none",
        loss_type={"token": "dapo", "sequence": "grpo"}[loss],
        use_bias_correction_kl=False,
    )
    assert_same(pair.ours(), theirs)


def test_their_kl_is_weighted_by_the_ratio_unless_told_otherwise(
    duel: Callable[..., Duel],
) -> None:
    """As in DeepSeek-V3.2; the paper of GRPO has the divergence as it is."""
    section = {"kl_coefficient": BETA, "scale": "group", "loss": "token"}
    pair = duel({**GRPO, "ppo.grpo": section}, 4)
    theirs = grpo(pair, beta=BETA, loss_type="dapo")
    assert pair.ours().loss != pytest.approx(theirs.loss, abs=1e-3)


def test_the_losses_that_are_compared_differ(duel: Callable[..., Duel]) -> None:
    """Else agreement would show nothing: token means from response means, clipped from plain."""
    losses = set()
    for loss in ("token", "sequence"):
        section = {"kl_coefficient": BETA, "scale": "group", "loss": loss}
        losses.add(duel({**GRPO, "ppo.grpo": section}, 4).ours().loss)
    losses.add(duel(PENALISED, 4).ours().loss)
    one, other, third = sorted(losses)
    assert min(other - one, third - other) > 1e-3


@pytest.mark.parametrize("size", [ROWS, 4])
def test_their_token_mean_depends_on_micro_batches(duel: Callable[..., Duel], size: int) -> None:
    """`bnpo` averages over a micro-batch: as ours only where it is the whole mini-batch."""
    section = {"kl_coefficient": BETA, "scale": "group", "loss": "token"}
    pair = duel({**GRPO, "ppo.grpo": section}, 4)
    options = {"beta": BETA, "loss_type": "bnpo", "use_bias_correction_kl": False}
    theirs = grpo(pair, micro_batch=size, **options)
    same = pair.ours().loss == pytest.approx(theirs.loss, rel=1e-5, abs=1e-5)
    assert same is (size == ROWS)


def test_normalised_advantages_are_over_responses_there_and_over_tokens_here(
    duel: Callable[..., Duel],
) -> None:
    whitened = {**PENALISED, "ppo.advantage": {"normalise": "mini-batch", "clip": None}}
    pair = duel(whitened, 4)
    ours, theirs = pair.ours(), rloo(pair, beta=BETA, normalize_advantages=True)
    assert ours.loss != pytest.approx(theirs.loss, rel=1e-2)
    # before our mini-batch is made, they are as without normalisation
    raw = ours.advantages
    expected = (raw - raw.mean()) / (raw.std() + 1e-4)
    torch.testing.assert_close(expected, theirs.advantages, rtol=1e-5, atol=1e-5)
