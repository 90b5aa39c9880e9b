"""The settings of the policy stage: PPO-max's twelve details, and what each neighbour adds."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rlhf.common.address import Address
from rlhf.registry import ALGORITHMS
from rlhf.settings.endpoints import Endpoint
from rlhf.settings.neighbours import (
    AihfDirectSettings,
    AihfSettings,
    ApaSettings,
    EtpoSettings,
    GrpoSettings,
    OnlineDpoSettings,
    ProcessSettings,
    ReinforcePpSettings,
    RtoSettings,
    XpoSettings,
)
from rlhf.settings.reads import (
    COMPARES_RESPONSES,
    LEARNS_A_NEW_HEAD,
    NEIGHBOUR_SECTIONS,
    OWN_SECTION,
    WITHOUT_SCORED_ROLLOUT,
    WITHOUT_TOKEN_WEIGHTS,
    needed,
    own_section,
    switched_off,
)
from rlhf.settings.rewards import RewardService, RewardSource
from rlhf.settings.sampling import Sampling
from rlhf.settings.section import (
    Count,
    CountOrZero,
    Fraction,
    Name,
    NonNegative,
    Positive,
    Section,
    one_of,
)
from rlhf.settings.training import Lora, Optimizer, without_dropout


class Kl(Section):
    """Detail 1: token-level KL penalty (eq. 19)."""

    # eta
    coefficient: NonNegative
    # rlhf/ppo/kl.py has the three
    estimator: Literal["k1", "k2", "k3"] = "k1"


class RewardTransform(Section):
    """Details 4 and 5: how a response's score is reparameterised before it is a token reward."""

    # detail 5: (r - mean) / std of the history
    normalise: Literal["running"] | None = "running"
    # detail 4: r / std of the history
    scale: Literal["running"] | None = None
    # detail 5, delta: to [-delta, delta] after either
    clip: Positive | None = None

    @property
    def rescales(self) -> bool:
        """Whether scores come out at about unit scale."""
        return self.normalise is not None or self.scale is not None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.normalise is not None and self.scale is not None:
            raise ValueError(
                "normalise divides by the standard deviation already: normalise or scale must be null"
            )
        return self


class AdvantageTransform(Section):
    """Detail 6: how advantages are reparameterised before the policy learns from them."""

    # (A - mean) / std over the mini-batch's response tokens
    normalise: Literal["mini-batch"] | None = "mini-batch"
    # to [-clip, clip] after normalisation
    clip: Positive | None = None


class Entropy(Section):
    """Detail 3: entropy bonus."""

    coefficient: Positive
    # delta_ent in nats a token: the loss holds |H - target|; null: -H
    target: Positive | None = None


class Penalty(Section):
    """PPO-penalty (eq. 14): KL(pi_old || pi) in the loss, in place of the clip."""

    # beta, where it starts
    coefficient: Positive
    # nats a token: beta adapts to it after each iteration; null: beta is fixed
    target: Positive | None = None


class Gae(Section):
    """Detail 10: generalised advantage estimation (eq. 9)."""

    gamma: Fraction = 1.0
    lam: Annotated[Fraction, Field(alias="lambda")] = 0.95


class Critic(Section):
    """Detail 8: where the critic starts and how long it learns alone."""

    LATER: ClassVar = frozenset({"zero_head"})

    initial: Literal["reward", "sft"] = "reward"
    # all values are 0 at first; of etpo they always are
    zero_head: bool = False
    # rollout iterations in which only the critic learns
    pretraining_iterations: CountOrZero
    # over the rollouts of each of them
    pretraining_epochs: Count = 1
    optimizer: Optimizer


class Ptx(Section):
    """Pretraining loss mixed into the policy's (eq. 17)."""

    coefficient: Positive
    # of plain text, per mini-batch, however many processes share them
    windows: Count


class Alarm(Section):
    """What happens when the policy collapses; rlhf/training/monitor.py states the rule."""

    # return: stop, and keep the best policy from before
    action: Literal["warn", "stop", "return"] = "warn"
    # iterations in a row that must show it
    patience: Count = 3


class Ppo(Section):
    """The policy stage (sections 3 and 5): by PPO-max, or by the algorithm that is named."""

    LATER: ClassVar = (
        frozenset(
            {"rewards", "reward_services", "responses", "endpoints", "keep_checkpoint", "lora"}
        )
        | NEIGHBOUR_SECTIONS
    )

    algorithm: Annotated[str, one_of(ALGORITHMS)] = "ppo-max"
    # detail 9: where the policy starts
    initial: Literal["sft", "base"] = "sft"
    iterations: Count
    # responses per iteration, the experience buffer; prompts of two responses each for xpo and online-dpo
    rollouts: Count
    # to each prompt: a group, as rloo and grpo compare them
    responses: Count = 1
    # responses per optimiser step; pairs for xpo and online-dpo
    mini_batch: Count
    # responses per forward pass
    micro_batch: Count
    # over the buffer
    epochs: Count = 1
    optimizer: Optimizer
    critic: Critic | None
    sampling: Sampling = Sampling()
    # what scores a response, summed: addresses, or mappings of `reward` and `weight`; model:reward is
    # the reward model of the stage before
    rewards: tuple[RewardSource, ...] = (RewardSource(reward="model:reward"),)
    # what `http:NAME` asks, by name
    reward_services: dict[Name, RewardService] = Field(default_factory=dict)
    # what a judge of pairs `api:NAME` asks, by name, as in evaluate.endpoints
    endpoints: dict[Name, Endpoint] = Field(default_factory=dict)
    kl: Kl | None
    # detail 2, what the ratio divides by; policy: the one that sampled
    importance: Literal["policy", "reference"] = "policy"
    entropy: Entropy | None = None
    reward: RewardTransform
    advantage: AdvantageTransform | None = None
    gae: Gae | None = Gae()
    # detail 11, epsilon
    surrogate_clip: Positive | None
    penalty: Penalty | None = None
    # detail 7, lambda_vf
    value_clip: Positive | None
    ptx: Ptx | None = None
    # the sections of neighbours, each of the algorithm of its name
    apa: ApaSettings | None = None
    rto: RtoSettings | None = None
    process: ProcessSettings | None = None
    etpo: EtpoSettings | None = None
    grpo: GrpoSettings | None = None
    reinforce_pp: ReinforcePpSettings | None = None
    online_dpo: OnlineDpoSettings | None = None
    xpo: XpoSettings | None = None
    aihf: AihfSettings | None = None
    aihf_direct: AihfDirectSettings | None = None
    # of policy and critic, from the top; null: all
    trainable_layers: Count | None = None
    # of all that learns; models of equal weights then have one backbone; null: off
    lora: Annotated[Lora | None, AfterValidator(without_dropout)] = None
    # null: as in data
    max_response_tokens: Count | None = None
    # iterations between validations
    samples_every: Count = 5
    validation_prompts: Count = 16
    alarm: Alarm = Alarm()
    # best: the validated policy with the highest objective
    keep: Literal["best", "last"] = "best"
    # iterations between resume checkpoints
    checkpoint_every: Count = 10
    # of a finished run, so that it goes on where iterations is raised; false spares the disk of it
    keep_checkpoint: bool = True

    @model_validator(mode="after")
    def _penalty_instead_of_clip(self) -> Self:
        if self.penalty is None:
            return self
        if self.surrogate_clip is not None:
            raise ValueError(
                "the penalty of eq. 14 takes the place of the clip: "
                "penalty or surrogate_clip must be null"
            )
        if self.importance != "policy":
            raise ValueError(
                "penalty measures the divergence from the sampling policy: importance must be policy"
            )
        return self

    @model_validator(mode="after")
    def _batches_divide(self) -> Self:
        if self.rollouts % self.mini_batch:
            raise ValueError(
                f"rollouts {self.rollouts} is not a multiple of mini_batch {self.mini_batch}"
            )
        for key in ("micro_batch", "responses"):
            size = getattr(self, key)
            if self.mini_batch % size:
                raise ValueError(f"mini_batch {self.mini_batch} is not a multiple of {key} {size}")
        return self

    @model_validator(mode="after")
    def _keys_of_the_algorithm(self) -> Self:
        """What an algorithm does not read must be off, and its own section must be there."""
        name = self.algorithm
        wanted = [
            f"ppo.{key}: {off or 'null'}"
            for key, off in switched_off(name).items()
            if getattr(self, key) != off
        ]
        own = own_section(name)
        if name in OWN_SECTION and getattr(self, own) is None:
            wanted.append(f"ppo.{own}: {OWN_SECTION[name]}")
        wanted += [f"a section ppo.{key}" for key in needed(name) if getattr(self, key) is None]
        if name in COMPARES_RESPONSES and self.responses < 2:
            wanted.append("ppo.responses: 2 or more")
        if wanted:
            raise ValueError(
                f"algorithm {name} needs {', '.join(wanted)}; what it does not read must be off"
            )
        return self

    @model_validator(mode="after")
    def _adapters_suffice(self) -> Self:
        if self.lora is not None and self.algorithm in LEARNS_A_NEW_HEAD:
            raise ValueError(
                f"algorithm {self.algorithm} needs lora: null: its head over the vocabulary is new and "
                "has to be learnt whole, and its target network follows the weights themselves"
            )
        return self

    @model_validator(mode="after")
    def _rescaled_once(self) -> Self:
        """What is divided by a standard deviation anyway must not be before."""
        if self.grpo is not None and self.grpo.scale is not None and self.reward.rescales:
            raise ValueError(
                f"grpo.scale {self.grpo.scale} divides by the scores' standard deviation: "
                "reward.normalise and reward.scale would have no effect and must be null"
            )
        whitened = self.advantage is not None and self.advantage.normalise is not None
        if self.algorithm == "reinforce-pp" and whitened:
            raise ValueError(
                "reinforce-pp whitens the advantages of the whole rollout: "
                "advantage.normalise must be null"
            )
        return self

    @model_validator(mode="after")
    def _baseline_of_a_group(self) -> Self:
        section = self.reinforce_pp
        if section is not None and section.baseline == "group" and self.responses < 2:
            raise ValueError(
                "reinforce_pp.baseline is the mean over the responses to a prompt: "
                "responses must be 2 or more"
            )
        return self

    @model_validator(mode="after")
    def _tokens_to_weigh(self) -> Self:
        if self.sampling.importance_cap is not None and self.algorithm in WITHOUT_TOKEN_WEIGHTS:
            raise ValueError(
                f"sampling.importance_cap: algorithm {self.algorithm} has no loss of single sampled "
                "tokens to weigh; it must be null"
            )
        return self

    @model_validator(mode="after")
    def _some_reward(self) -> Self:
        addresses = {source.reward for source in self.rewards}
        if not self.rewards or len(addresses) < len(self.rewards):
            raise ValueError("rewards: at least one, and none twice")
        return self

    @model_validator(mode="after")
    def _known_services(self) -> Self:
        for source in self.rewards:
            address = source.address
            if address.kind == "http" and address.detail not in self.reward_services:
                there = ", ".join(sorted(self.reward_services)) or "none"
                raise ValueError(
                    f"rewards: {address}: no such service; reward_services has {there}"
                )
        return self

    @model_validator(mode="after")
    def _known_endpoint(self) -> Self:
        address = Address.parse(self.pair_judge or "")
        if address.kind == "api" and address.detail not in self.endpoints:
            there = ", ".join(sorted(self.endpoints)) or "none"
            key = f"{own_section(self.algorithm)}.judge"
            raise ValueError(f"{key}: {address}: no such endpoint; ppo.endpoints has {there}")
        return self

    @model_validator(mode="after")
    def _reward_that_can_learn(self) -> Self:
        if self.algorithm == "aihf" and self.rewards != (RewardSource(reward="model:reward"),):
            raise ValueError(
                "algorithm aihf needs rewards: [model:reward], whose model goes on learning"
            )
        return self

    @model_validator(mode="after")
    def _history_of_rewards(self) -> Self:
        normalised = [source.reward for source in self.rewards if source.normalise is not None]
        if normalised and self.algorithm in WITHOUT_SCORED_ROLLOUT:
            raise ValueError(
                f"rewards: {normalised[0]}: algorithm {self.algorithm} keeps no history of scores: "
                "normalise must be null; weight brings rewards to one scale"
            )
        return self

    @property
    def pair_judge(self) -> str | None:
        """The judge that ranks pairs for the algorithm; None where the rewards do, or nothing is ranked."""
        pairs = self.xpo or self.online_dpo
        return pairs.judge if pairs else None
