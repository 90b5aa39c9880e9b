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

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from duel import PROMPTS, WIDTH, Duel, rollout_of
from given import alone
from hypothesis import given
from hypothesis import strategies as st
from tiny import EOS, GOOD, PAD, VOCABULARY
from torch import Tensor

from rlhf.core.tally import Tally
from rlhf.models.backbone import entropies, token_logprobs
from rlhf.ppo.advantages import whiten
from rlhf.ppo.rewards import final_score
from rlhf.workspace import Workspace

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")
SEEDS = st.integers(0, 10_000)
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
