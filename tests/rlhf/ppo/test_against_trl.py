"""PPO-max against the PPO of TRL 1.12.0, the last version that has one.

Its helpers are asked directly. What stands in the middle of `PPOTrainer.train` - KL penalty, token
rewards, GAE, both clipped losses - is compared by its effect: both trainers get the same models
and the same responses, take the same steps of plain gradient descent, and must arrive at the same
weights.

Where we differ on purpose; a test below shows each line marked *:

| quantity               | TRL                                           | here                              |
|------------------------|-----------------------------------------------|-----------------------------------|
| score of a response *  | on the first padding after its EOS (trl#3750) | on its last token (eq. 3)         |
| state after the EOS    | has a value, learnt and bootstrapped on       | is the end: its value is 0        |
| mean of the loss *     | over a micro-batch, then over micro-batches   | over all tokens of the mini-batch |
| whitening *            | by sqrt(var + 1e-8); NaN for one token        | by std; 0 where nothing varies    |
| log p in bf16 *        | rounded to it                                 | float32 from the logits on        |
| temperature T          | logits / (T + 1e-7)                           | logits / T                        |
| gradient norm *        | `max_grad_norm` is ignored (trl#3961)         | clipped by the engine             |
| clip fraction *        | tokens whose clipped term is the larger       | tokens with a ratio out of bounds |
| log p of padding       | the number 1, counted in the mean of ratios   | masked tokens never enter         |
| last batch of the data | a step at each of its micro-batches           | a step at the mini-batch's end    |

Advantages are whitened over TRL's batch and over our mini-batch: the same where there is one mini-batch, as here.
"""

import copy
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from given import alone, step_loss, updates_of
from hypothesis import given
from hypothesis import strategies as st
from tiny import EOS, GOOD, PAD, VOCABULARY, prompts_of, tiny_settings, tiny_tokenizer
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification

from rlhf.algorithms.base import Context
from rlhf.algorithms.ppo_max import PpoMax
from rlhf.core.tally import Tally
from rlhf.engine import make_engine
from rlhf.models.backbone import entropies, token_logprobs
from rlhf.models.heads import ScalarModel, load_scalar_model
from rlhf.models.saving import load_causal_lm
from rlhf.ppo.advantages import whiten
from rlhf.ppo.rewards import final_score
from rlhf.rollout.records import Experience, Rollout, Sampled, Scores, make_rollout
from rlhf.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

SEEDS = st.integers(0, 10_000)
PROMPTS = [
    [2, 9, 30],
    [2, 11],
    [2, 5, 6, 7, 8, 40, 41],
    [2, 50, 51, 52],
    [2, 60],
    [2, 13, 14],
    [2, 15],
    [2, 16, 17],
]
WIDTH, EPOCHS, RATE = 6, 3, 0.3
# none ends by itself
FULL = [WIDTH] * len(PROMPTS)
# all but one end by an EOS; an odd total, which no two micro-batches share evenly
ENDED = [5, 1, 6, 2, 4, 3, 5, 1]


@pytest.fixture(scope="module")
def trl() -> ModuleType:
    """Imported late: collecting the tests would take seconds longer in every process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
        return importlib.import_module("trl.experimental.ppo.ppo_trainer")


def masked(seed: int) -> tuple[Tensor, Tensor]:
    """Numbers [B, R] and a mask of at least two tokens, with numbers in the padding too."""
    random = torch.Generator().manual_seed(seed)
    count = int(torch.randint(2, 5, (1,), generator=random))
    lengths = torch.randint(1, 8, (count,), generator=random)
    values = 3 * torch.randn((len(lengths), 8), generator=random, dtype=torch.float64) + 1
    return values, torch.arange(8)[None] < lengths[:, None]


# -- helpers ------------------------------------------------------------------------------------


@given(seed=SEEDS)
def test_means_in_the_metrics_agree_but_for_micro_batches(trl: ModuleType, seed: int) -> None:
    """Those of Tally; that the losses keep to the same is shown by the updates below."""
    values, mask = masked(seed)
    tally, parts = Tally(), []
    # a micro-batch each
    for row, keep in zip(values, mask, strict=True):
        tally.add(mean=row[keep])
        parts.append(float(trl.masked_mean(row, keep)))
    ours, theirs = tally.means(alone)["mean"], float(trl.masked_mean(values, mask))
    assert ours == pytest.approx(theirs, abs=1e-12)
    if mask.sum(dim=1).unique().numel() > 1:
        assert sum(parts) / len(parts) != pytest.approx(theirs, abs=1e-6)


@given(seed=SEEDS)
def test_whitening_agrees_but_for_their_epsilon(trl: ModuleType, seed: int) -> None:
    values, mask = masked(seed)
    # so that the epsilon shows
    values = 1e-4 * values
    ours, theirs = whiten(values, mask, alone), trl.masked_whiten(values, mask)
    variance = values[mask].var()
    with_epsilon = ours[mask] * (variance / (variance + 1e-8)).sqrt()
    torch.testing.assert_close(with_epsilon, theirs[mask], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(ours[mask], theirs[mask], rtol=1e-2)
    assert bool((ours[~mask] == 0).all())


def test_whitening_where_nothing_varies(trl: ModuleType) -> None:
    one, mask = torch.tensor([[0.5, 9.0]]), torch.tensor([[True, False]])
    assert whiten(one, mask, alone).tolist() == [[0.0, 0.0]]
    assert bool(trl.masked_whiten(one, mask)[0, 0].isnan())


@given(seed=SEEDS, temperature=st.floats(0.3, 2))
def test_log_probabilities_and_entropies_agree(
    trl: ModuleType, seed: int, temperature: float
) -> None:
    random = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn((3, 5, VOCABULARY), generator=random)
    tokens = torch.randint(VOCABULARY, (3, 5), generator=random)
    ours = token_logprobs(logits.flatten(0, 1) / temperature, tokens.flatten()).view(3, 5)
    theirs = trl.selective_log_softmax(logits / (temperature + 1e-7), tokens)
    # logits up to 50, and 1e-7 of T = 0.3
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-5)
    peer = importlib.import_module("trl.trainer.utils").entropy_from_logits(logits)
    found = entropies(logits.flatten(0, 1)).view(3, 5)
    torch.testing.assert_close(found, peer, rtol=0, atol=1e-6)


def test_log_probabilities_from_half_precision(trl: ModuleType) -> None:
    random = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn((50, VOCABULARY), generator=random)).bfloat16()
    tokens = torch.arange(50)
    exact = logits.double().log_softmax(1)[tokens, tokens].float()
    torch.testing.assert_close(token_logprobs(logits.float(), tokens), exact, rtol=0, atol=1e-5)
    theirs = trl.selective_log_softmax(logits[None], tokens[None])[0]
    assert float((theirs - exact).abs().max()) > 1e-2


@given(seed=SEEDS)
def test_truncation_agrees_and_the_score_lies_one_token_earlier(trl: ModuleType, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    # an EOS is likely, also after the first
    tokens = torch.randint(EOS, GOOD + 2, (5, WIDTH), generator=random)
    cut = trl.truncate_response(EOS, PAD, tokens)
    lengths = trl.first_true_indices(cut == PAD)
    responses = [row[: row.index(EOS) + 1] if EOS in row else row for row in tokens.tolist()]
    rollout = rollout_of(responses)
    assert torch.equal(rollout.lengths, lengths)
    assert torch.equal(rollout.finished, (cut == EOS).any(dim=1))
    assert torch.equal(rollout.batch.input_ids[rollout.batch.target_mask], cut[cut != PAD])
    rewards = final_score(torch.ones(5), rollout.response_mask)
    # TRL's `actual_end`: `lengths` where that is inside
    assert torch.equal(rewards.argmax(dim=1), lengths - 1)


# -- whole updates ------------------------------------------------------------------------------


def responses_of(lengths: list[int]) -> list[list[int]]:
    """Random words; what is shorter than WIDTH ends by an EOS."""
    random = torch.Generator().manual_seed(7)
    rows = torch.randint(GOOD, VOCABULARY, (len(lengths), WIDTH), generator=random).tolist()
    responses = []
    for row, length in zip(rows, lengths, strict=True):
        responses.append([*row[: length - 1], EOS] if length < WIDTH else row)
    return responses


def rollout_of(responses: list[list[int]]) -> Rollout:
    prompts = prompts_of(PROMPTS[: len(responses)])
    sampled = Sampled(responses, [[0.0] * len(response) for response in responses])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return make_rollout(prompts, sampled, EOS, PAD, device)


@dataclass(frozen=True)
class Outcome:
    """What came of one update: the change of all weights in one row each, and the metrics."""

    policy: Tensor
    critic: Tensor
    metrics: dict[str, float]


@dataclass(frozen=True)
class Duel:
    """Both trainers on the same models; every update starts from the same weights."""

    trl: ModuleType
    workspace: Workspace
    folder: Path
    gamma: float = 0.99
    lam: float = 0.95
    eta: float = 0.2
    estimator: str = "k1"
    micro_batch: int = len(PROMPTS)

    def algorithm(self) -> PpoMax:
        settings = tiny_settings(
            {
                "ppo.kl": {"coefficient": self.eta, "estimator": self.estimator},
                "ppo.gae": {"gamma": self.gamma, "lambda": self.lam},
                "ppo.micro_batch": self.micro_batch,
                "ppo.mini_batch": len(PROMPTS),
                "ppo.sampling.temperature": 0.7,
                "ppo.reward": {"normalise": None, "scale": None, "clip": None},
                "ppo.advantage": {"normalise": "mini-batch", "clip": None},
                "ppo.surrogate_clip": 0.2,
                "ppo.value_clip": 0.1,
                "ppo.ptx": None,
            }
        )
        engine = make_engine(settings.engine)
        algorithm = PpoMax(Context(settings, self.workspace, engine, tiny_tokenizer()))
        move(algorithm.models.language_model("policy"))
        return algorithm

    def ours(self, lengths: list[int], score_on_padding: bool = False) -> Outcome:
        """`score_on_padding`: as TRL has it, the first padding after an EOS is the last token."""
        algorithm, rollout, tally = self.algorithm(), rollout_of(responses_of(lengths)), Tally()
        policy, critic = updates_of(algorithm, rollout)
        (experience,) = policy.mini_batches
        lessons = [(policy, experience), (critic, experience)]
        if score_on_padding:
            longer = without_penalty_on_padding(algorithm, rollout)
            moved_score = replace(experience, advantages=longer.advantages)
            lessons = [(policy, moved_score), (critic, longer)]

        modules = {"policy": algorithm.models["policy"], "critic": critic_of(algorithm)}
        before = {name: weights(module) for name, module in modules.items()}
        parameters = [value for module in modules.values() for value in module.parameters()]
        optimizer = torch.optim.SGD(parameters, lr=RATE)
        for epoch in range(EPOCHS):
            for update, batch in lessons:
                loss = step_loss(update, batch, number=epoch)
                loss.total.backward()
                tally.absorb(loss.tally)
            optimizer.step()
            optimizer.zero_grad()
        moved = {name: weights(module) - before[name] for name, module in modules.items()}
        return Outcome(**moved, metrics={**policy.metrics, **tally.means(alone)})

    def theirs(self, lengths: list[int]) -> Outcome:
        algorithm, trl = self.algorithm(), self.trl
        policy = copy.deepcopy(algorithm.models.language_model("policy"))
        value = classifier(critic_of(algorithm))
        reward = classifier(load_scalar_model(self.workspace.model("reward")))
        pairs = zip(PROMPTS, responses_of(lengths), strict=True)
        answers = {tuple(prompt): response for prompt, response in pairs}

        def answer(
            model: nn.Module, queries: Tensor, size: int, pad_id: int, rule: Any
        ) -> tuple[Tensor, Tensor]:
            """In place of sampling: the responses that are given, with the policy's logits."""
            rows = []
            for query in queries.tolist():
                response = answers[tuple(token for token in query if token != PAD)]
                rows.append(response + [PAD] * (WIDTH - len(response)))
            padded = torch.tensor(rows, device=queries.device)
            both = torch.cat([queries, padded], dim=1)
            with torch.no_grad():
                logits = trl.forward(model, both, pad_id).logits[:, queries.shape[1] - 1 : -1]
            return both, logits / rule.temperature

        settings = trl.PPOConfig(
            output_dir=str(self.folder),
            bf16=False,
            gradient_checkpointing=False,
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            num_sample_generations=0,
            total_episodes=len(PROMPTS),
            per_device_train_batch_size=self.micro_batch,
            gradient_accumulation_steps=len(PROMPTS) // self.micro_batch,
            num_ppo_epochs=EPOCHS,
            response_length=WIDTH,
            stop_token="eos",
            temperature=0.7,
            kl_coef=self.eta,
            kl_estimator=self.estimator,
            gamma=self.gamma,
            lam=self.lam,
            cliprange=0.2,
            cliprange_value=0.1,
            # the two models share no weights
            vf_coef=1.0,
            # would stop all learning, were it heeded
            max_grad_norm=1e-9,
        )
        optimizer = torch.optim.SGD([*policy.parameters(), *value.parameters()], lr=RATE)
        constant_rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        before = weights(policy), weights(value)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trl, "batch_generation", answer)
            tokenizer = tiny_tokenizer()
            tokenizer.padding_side = "left"
            trainer = trl.PPOTrainer(
                args=settings,
                processing_class=tokenizer,
                model=policy,
                ref_model=load_causal_lm(self.workspace.model("sft")),
                reward_model=reward,
                train_dataset=[{"input_ids": prompt} for prompt in PROMPTS],
                value_model=value,
                optimizers=(optimizer, constant_rate),
            )
            # a batch that ends the data set would be stepped on at each micro-batch
            trainer.accelerator.gradient_state.plugin_kwargs["sync_with_dataloader"] = False
            # which shares its rows out to micro-batches
            np.random.seed(0)
            trainer.train()
        return Outcome(
            weights(policy) - before[0], weights(value) - before[1], trainer.state.log_history[0]
        )


@torch.no_grad()
def move(module: nn.Module) -> None:
    """Away from the reference, as after some updates."""
    for value in module.parameters():
        noise = torch.randn(value.shape, generator=torch.Generator().manual_seed(4))
        value.add_(0.02 * noise.to(value.device))


def critic_of(algorithm: PpoMax) -> ScalarModel:
    critic = algorithm.models["critic"]
    assert isinstance(critic, ScalarModel)
    return critic


def classifier(model: ScalarModel) -> LlamaForSequenceClassification:
    """The same model in the form that TRL wants."""
    peer = LlamaForSequenceClassification(model.lm.config)
    peer.model = copy.deepcopy(model.lm.base_model)
    peer.score = nn.Linear(model.lm.config.hidden_size, 1)
    peer.score.load_state_dict(model.head.state_dict())
    return peer.to(model.head.weight.device).eval()


def weights(module: nn.Module) -> Tensor:
    """All that the backbone and the head hold, in one row.

    Without a critic's unembedding, which it never uses.
    """
    parts = [module.lm.base_model, module.head] if isinstance(module, ScalarModel) else [module]
    values = [value for part in parts for value in part.parameters()]
    return torch.cat([value.detach().flatten().clone() for value in values])


def one_token_longer(rollout: Rollout) -> Rollout:
    """Count the first padding after an EOS as a response token; nothing attends to it."""
    mask = torch.arange(WIDTH, device=rollout.lengths.device)[None] <= rollout.lengths[:, None]
    target = rollout.batch.target_mask.clone()
    starts = torch.tensor([len(prompt) for prompt in PROMPTS], device=target.device)
    rows = torch.nonzero(rollout.lengths < WIDTH).squeeze(1)
    target[rows, (starts + rollout.lengths)[rows]] = True
    return replace(rollout, batch=replace(rollout.batch, target_mask=target), response_mask=mask)


def without_penalty_on_padding(algorithm: PpoMax, rollout: Rollout) -> Experience:
    """The experience of responses with the padding that bears the score.

    TRL sees no divergence there.
    """
    longer, score = one_token_longer(rollout), algorithm.score
    added = longer.response_mask & ~rollout.response_mask

    def score_without_divergence(scored: Rollout) -> Scores:
        scores = score(scored)
        reference = torch.where(added, scores.logprobs, scores.reference_logprobs)
        return replace(scores, reference_logprobs=reference)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithm, "score", score_without_divergence)
        (experience,) = updates_of(algorithm, longer)[0].mini_batches
    return experience


@pytest.fixture
def duel(trl: ModuleType, prepared: Workspace, tmp_path: Path) -> Callable[..., Duel]:
    return lambda **changes: Duel(trl, prepared, tmp_path, **changes)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    """To 1e-5 of the change as a whole."""
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


def assert_apart(ours: Tensor, theirs: Tensor) -> None:
    assert float((ours - theirs).norm() / theirs.norm()) > 1e-2


@pytest.mark.parametrize(("estimator", "micro_batch"), [("k1", 8), ("k3", 4)])
def test_the_same_weights_come_of_responses_of_full_length(
    duel: Callable[..., Duel], estimator: str, micro_batch: int
) -> None:
    pair = duel(estimator=estimator, micro_batch=micro_batch)
    ours, theirs = pair.ours(FULL), pair.theirs(FULL)
    assert_same(ours.policy, theirs.policy)
    assert_same(ours.critic, theirs.critic)
    names = {
        "reward": "objective/scores",
        "kl_sequence": "objective/kl",
        "policy_loss": "loss/policy_avg",
        "value_loss": "loss/value_avg",
        "value_clip_fraction": "val/clipfrac_avg",
        "ratio_mean": "val/ratio",
    }
    for name, peer in names.items():
        assert ours.metrics[name] == pytest.approx(theirs.metrics[peer], rel=1e-5, abs=1e-6), name
    penalty = theirs.metrics["objective/non_score_reward"]
    assert -0.2 * ours.metrics["kl_sequence"] == pytest.approx(penalty, rel=1e-5, abs=1e-6)
    # both clips were at work, so that their losses were compared;
    # a ratio out of bounds is not always clipped
    assert 0 < theirs.metrics["policy/clipfrac_avg"] < ours.metrics["clip_fraction"] < 1
    assert 0 < theirs.metrics["val/clipfrac_avg"] < 1


def test_without_discount_the_place_of_the_score_does_not_change_the_policy(
    duel: Callable[..., Duel],
) -> None:
    """With gamma = lambda = 1 an advantage is all later rewards less the value.

    Only the critic sees the difference.
    """
    pair = duel(gamma=1.0, lam=1.0)
    ours, theirs = pair.ours(ENDED), pair.theirs(ENDED)
    assert_same(ours.policy, theirs.policy)
    assert_apart(ours.critic, theirs.critic)


def test_the_same_weights_come_of_a_score_on_the_first_padding(duel: Callable[..., Duel]) -> None:
    pair = duel(eta=0.2)
    theirs, moved = pair.theirs(ENDED), pair.ours(ENDED, score_on_padding=True)
    assert_same(moved.policy, theirs.policy)
    assert_same(moved.critic, theirs.critic)
    ours = pair.ours(ENDED)
    assert_apart(ours.policy, theirs.policy)
    assert_apart(ours.critic, theirs.critic)


def test_micro_batches_change_their_update_and_not_ours(duel: Callable[..., Duel]) -> None:
    together, split = duel(gamma=1.0, lam=1.0), duel(gamma=1.0, lam=1.0, micro_batch=4)
    ours = together.ours(ENDED).policy
    assert_same(split.ours(ENDED).policy, ours)
    assert_apart(split.theirs(ENDED).policy, ours)
