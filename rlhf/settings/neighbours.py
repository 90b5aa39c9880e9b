"""The sections of PPO-max's neighbours in `ppo`.

A section bears the name of its algorithm; its defaults are the vetted values of the paper or the
authors' code. Which algorithm reads what is in `reads.py`.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from rlhf.common.address import Address
from rlhf.registry import JUDGES
from rlhf.settings.section import Count, Decay, NonNegative, Positive, Section, of_kind
from rlhf.settings.training import Optimizer

# -- other losses, other rewards -------------------------------------------------------------------


class ApaSettings(Section):
    """Advantage-induced policy alignment: the section of algorithm apa (arXiv 2306.02231)."""

    LATER: ClassVar = frozenset({"loss"})

    # the target is log pi_ref + A / lambda; 0.1 in the authors' code, with whitened advantages
    lam: Annotated[Positive, Field(alias="lambda")] = 0.1
    # awr: advantage-weighted regression, the paper's control; its weights exp(A / lambda) want lambda 1
    loss: Literal["square", "awr"] = "square"


class RtoSettings(Section):
    """Reinforced token optimisation: the section of algorithm rto (arXiv 2404.18922)."""

    # beta_1, of log(pi_dpo / pi_ref) at each token; beta_2 is ppo.kl.coefficient
    coefficient: Positive = 0.05
    # each token's DPO reward to [-clamp, clamp], as the authors' code has it; null: the paper
    clamp: Positive | None = 0.05
    # beta_3, of the score at the last token
    score_coefficient: NonNegative = 1.0
    # take the sum of a response's DPO rewards off its last token again: what is left is shaping
    shaping_only: bool = False


class ProcessSettings(Section):
    """Process supervision: the section of algorithm process (Math-Shepherd, arXiv 2312.08935)."""

    # of the step scores p_k; sum: each is paid, as in the paper; difference: p_k - p_{k-1}
    rule: Literal["sum", "difference"] = "sum"
    # c, what a step score is multiplied by
    coefficient: Positive = 1.0
    # of the score at the last token, beside the step scores; 0, none, is what the paper describes
    score_coefficient: NonNegative = 0.0


class EtpoSettings(Section):
    """Entropy-regularised token-level policy optimisation: the section of algorithm etpo.

    arXiv 2402.06700; the defaults are those of the authors' code (morning9393/ETPO). The critic's
    blocks are those of `ppo.critic.initial`, its Q is 0 at the start.
    """

    # of KL(pi || pi_ref), in the targets and in the policy's loss; in units of the scores after
    # `ppo.reward`
    beta: Positive = 0.01
    # what the target network keeps of itself at a step of the critic
    polyak: Decay = 0.995
    # delta: errors above it count linearly; null: all are squared
    huber: Positive | None = 10.0
    # exact: expectation under the policy; published: the code's mean over the vocabulary, a control
    form: Literal["exact", "published"] = "exact"


# -- no critic -------------------------------------------------------------------------------------


class GrpoSettings(Section):
    """Group relative policy optimisation: the section of algorithm grpo (arXiv 2402.03300)."""

    # beta, of KL(pi || pi_ref) in the loss; 0.04 in the paper
    kl_coefficient: NonNegative = 0.04
    # the std that advantages are divided by: of the prompt's group, as in the paper; of the batch of
    # all rollouts; null: none, as in Dr. GRPO (arXiv 2503.20783)
    scale: Literal["group", "batch"] | None = "group"
    # a mean over all response tokens of the mini-batch, as in DAPO (arXiv 2503.14476); sequence: over
    # each response and then over responses, as in the paper
    loss: Literal["token", "sequence"] = "token"


class ReinforcePpSettings(Section):
    """REINFORCE++: the section of algorithm reinforce-pp (arXiv 2501.03262), which may be off."""

    # taken off the scores before they are token rewards: the mean of the prompt's group
    baseline: Literal["group"] | None = None


# -- pairs of responses ----------------------------------------------------------------------------


class PairSettings(Section):
    """What algorithms that learn from pairs share."""

    LATER: ClassVar = frozenset({"judge"})

    # of the implicit reward beta log pi / pi_ref; 0.1 in TRL, oat and RLHFlow's online recipe
    beta: Positive = 0.1
    # rlhf/ppo/dpo.py has both
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    # whether an iteration learns from all pairs so far: its steps then grow with its number
    accumulate: bool = False
    # who ranks the responses: null, the rewards; else a judge that sees both, asked in both orders:
    # rules, api:NAME of `ppo.endpoints`, or one of your own
    judge: Annotated[str, of_kind(JUDGES)] | None = None

    @field_validator("judge")
    @classmethod
    def _judge_that_may_teach(cls, judge: str | None) -> str | None:
        address = Address.parse(judge) if judge else None
        if address is None:
            return judge
        if address.kind == "gold":
            raise ValueError("gold judges the finished policy, which must not have learnt from it")
        if address.kind == "people":
            raise ValueError("nobody votes while a policy learns; rules or api:NAME can be asked")
        if address.kind == "rules" and address.detail:
            raise ValueError("rules stands alone")
        if address.kind == "api" and not address.detail:
            raise ValueError("expected api:NAME, a name of ppo.endpoints")
        return judge


class OnlineDpoSettings(PairSettings):
    """Online DPO: the section of algorithm online-dpo. Fresh pairs only, as TRL has it."""


class XpoSettings(PairSettings):
    """Exploratory preference optimisation: the section of algorithm xpo (arXiv 2405.21046).

    The paper's learning rate, batches and base model are not verified.
    """

    # as in Algorithm 1; false is TRL's form
    accumulate: bool = True
    # of the exploration term, by iteration, and the last one holds on: the experiments' three
    # rounds, as restated elsewhere; the paper's own text was not at hand
    alpha: Annotated[tuple[NonNegative, ...], Field(min_length=1)] = (1e-5, 5e-6, 0.0)
    # who gives a prompt its second response: reference in Algorithm 1, policy in the experiments
    second: Literal["reference", "policy"] = "reference"


# -- demonstrations and pairs ----------------------------------------------------------------------


class Weights(Section):
    """How much demonstrations and pairs weigh, and how many an iteration takes; as AIHF joins them."""

    # of the mean over demonstrations, and of the mean over pairs; 1 and 1 are the code's defaults, its
    # script takes 1 and 0, and the paper's values are not verified
    demonstration_weight: NonNegative = 1.0
    pair_weight: NonNegative = 1.0
    # rows of tables sft and preferences an iteration
    demonstrations: Count = 8
    pairs: Count = 8

    @model_validator(mode="after")
    def _something_is_learnt(self) -> Self:
        if self.demonstration_weight == self.pair_weight == 0:
            raise ValueError("demonstration_weight or pair_weight must be above 0")
        return self


class AihfSettings(Weights):
    """Reward and policy in turns: the section of algorithm aihf (arXiv 2406.06874)."""

    # logistic: a demonstration is preferred to a response of the policy, as in the code;
    # linear: the paper's gradient, which is unbounded and wants small steps
    form: Literal["logistic", "linear"] = "logistic"
    # of linear alone: the temperature of the policy that a reward induces
    beta: Positive | None = None
    # passes over an iteration's rows, each of one optimiser step
    reward_epochs: Count = 1
    # of the reward; 1e-6 in the code, for 1.4 B parameters and hundreds of steps
    optimizer: Optimizer

    @model_validator(mode="after")
    def _beta_of_linear(self) -> Self:
        if self.form == "linear" and self.beta is None:
            raise ValueError("form linear needs a beta, 0.1 for one")
        if self.form == "logistic" and self.beta is not None:
            raise ValueError("form logistic has no beta: it must be null")
        return self


class AihfDirectSettings(Weights):
    """Without a reward model: the section of algorithm aihf-direct."""

    # of the implicit reward; 0.1 in the group's direct method
    beta: Positive = 0.1
