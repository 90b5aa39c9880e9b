"""Every setting there is, with its unit and its place in the paper. A detail that is off is `null`."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlhf.settings.evaluation import Evaluate
from rlhf.settings.section import (
    Addresses,
    Count,
    CountOrZero,
    Decay,
    Fraction,
    Name,
    NonNegative,
    Positive,
    Section,
)


class Model(Section):
    """The base model."""

    source: (
        str  # wheel:NAME==VERSION, hub:OWNER/NAME@REVISION, path:DIR or random:LAYERSxWIDTH (tests)
    )
    sha256: str | None = None  # of the wheel, or of the directory tree; None: recorded, not checked
    chat_template: Literal["chatml", "own"] = (
        "chatml"  # chatml: no system prompt is put in; own: the model's
    )


class Data(Section):
    """Where data comes from and how it is cut; every list holds source addresses."""

    sft: Addresses
    preferences: Addresses
    prompts: Addresses  # of PPO
    evaluation: Addresses  # prompts held out for the judges
    pretrain: Addresses  # plain text for ptx
    max_prompt_tokens: Count
    max_response_tokens: Count
    pretrain_tokens: Count  # length of one window of plain text
    validation_fraction: Fraction = 0.05  # of opening turns
    test_fraction: Fraction = (
        0.10  # of opening turns; a source with a test split of its own keeps that instead
    )
    gold_fraction: Fraction = (
        0.5  # of the preference openings left for training: set aside for the gold model
    )
    limits: dict[str, Count] = Field(
        default_factory=dict
    )  # rows kept per "table.split", or per "table.split.kind"
    long_responses: Literal["truncate", "drop"] = "truncate"  # those over max_response_tokens
    broken: Literal["drop", "refuse"] = "drop"

    @model_validator(mode="after")
    def _fractions_leave_training_data(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                "validation_fraction + test_fraction must stay below 1, nothing would be left to train on"
            )
        return self


class Engine(Section):
    """How training runs on the machine."""

    kind: Literal["torch", "deepspeed"] = "torch"
    precision: Literal["fp32", "bf16", "auto"] = (
        "fp32"  # auto: bf16 where the hardware multiplies it, else fp32
    )
    processes: Count = 1  # per machine, one per GPU
    zero_stage: Literal[1, 2, 3] = 2  # deepspeed only
    gradient_checkpointing: bool = False
    threads: Count | None = None  # of torch on a CPU; None: one per core

    @model_validator(mode="after")
    def _many_processes_need_deepspeed(self) -> Self:
        if self.processes > 1 and self.kind != "deepspeed":
            raise ValueError("processes > 1 needs kind: deepspeed")
        return self


class Optimizer(Section):
    """AdamW and its schedule."""

    learning_rate: Positive
    warmup_fraction: Fraction = 0.1  # of the steps, linear from 0
    decay: Literal["cosine", "constant", "inverse_sqrt"] = "cosine"
    final_fraction: Fraction = 0.1  # of the peak, where the cosine ends
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    epsilon: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    max_gradient_norm: Positive | None = 1.0  # detail 12; null: no clipping


class Sft(Section):
    """Supervised fine-tuning (section 5.1)."""

    epochs: Positive
    batch_tokens: Count  # upper bound of tokens in one optimiser step, padding included
    micro_batch_tokens: Count  # upper bound of tokens in one forward pass
    optimizer: Optimizer
    trainable_layers: Count | None = None  # from the top; null: all of them and the embeddings
    evaluate_every: Count = 20  # steps
    checkpoint_every: Count = 50  # steps


class RewardModel(Section):
    """A pairwise reward model (section 3.1, eq. 1-2)."""

    initial: Literal["base", "sft"] = "sft"
    epochs: Positive
    max_steps: Count | None = None
    batch_tokens: Count
    micro_batch_tokens: Count
    min_pairs: Count = 4  # of one batch
    max_pairs: Count = 128
    lm_coefficient: NonNegative = 1.0  # beta_rm
    balance_kinds: bool = (
        False  # repeat the pairs of the scarcer kind: both weigh the same in an epoch
    )
    optimizer: Optimizer
    trainable_layers: Count | None = None
    evaluate_every: Count = 20
    checkpoint_every: Count = 50

    @model_validator(mode="after")
    def _pairs_in_order(self) -> Self:
        if self.min_pairs > self.max_pairs:
            raise ValueError(f"min_pairs {self.min_pairs} is above max_pairs {self.max_pairs}")
        if self.max_pairs < 2 * self.min_pairs - 1:
            raise ValueError(
                f"max_pairs {self.max_pairs}: batches of {self.min_pairs} need {2 * self.min_pairs - 1}"
            )
        return self


class Kl(Section):
    """Detail 1: token-level KL penalty (eq. 19)."""

    coefficient: NonNegative  # eta
    estimator: Literal["k1", "k2", "k3"] = "k1"


class RewardTransform(Section):
    """Details 4 and 5: how the score of the reward model is reparameterised before it becomes a token reward."""

    normalise: Literal["running"] | None = "running"  # detail 5: (r - mean) / std of the history
    scale: Literal["running"] | None = None  # detail 4: r / std of the history
    clip: Positive | None = None  # detail 5, delta: to [-delta, delta] after either

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.normalise is not None and self.scale is not None:
            raise ValueError(
                "normalise divides by the standard deviation already: normalise or scale must be null"
            )
        return self


class AdvantageTransform(Section):
    """Detail 6: how advantages are reparameterised before the policy learns from them."""

    normalise: Literal["mini-batch"] | None = (
        "mini-batch"  # (A - mean) / std over its response tokens
    )
    clip: Positive | None = None  # to [-clip, clip] after normalisation


class Entropy(Section):
    """Detail 3: entropy bonus."""

    coefficient: Positive
    target: Positive | None = (
        None  # delta_ent in nats per token: the loss holds |H - target|; null: -H
    )


class Penalty(Section):
    """PPO-penalty (eq. 14): KL(pi_old || pi) in the loss, in place of the clip."""

    coefficient: Positive  # beta, where it starts
    target: Positive | None = (
        None  # nats per token: beta adapts to it after each iteration; null: beta is fixed
    )


class Gae(Section):
    """Detail 10: generalised advantage estimation (eq. 9)."""

    gamma: Fraction = 1.0
    lam: Annotated[Fraction, Field(alias="lambda")] = 0.95


class Critic(Section):
    """Detail 8: where the critic starts and how long it learns alone."""

    initial: Literal["reward", "sft"] = "reward"
    pretraining_iterations: CountOrZero  # rollout iterations in which only the critic learns
    pretraining_epochs: Count = 1
    optimizer: Optimizer


class Ptx(Section):
    """Pretraining loss mixed into the policy's (eq. 17)."""

    coefficient: Positive
    windows: Count  # of plain text per mini-batch and process


class Alarm(Section):
    """What happens when the policy collapses; rlhf/training/monitor.py states the rule."""

    action: Literal["warn", "stop", "return"] = (
        "warn"  # return: stop, and keep the best policy from before
    )
    patience: Count = 3  # iterations in a row that must show it


class Sampling(Section):
    """How rollouts are sampled; their log-probs are taken from this very distribution."""

    temperature: Positive = 1.0


class Ppo(Section):
    """PPO-max (sections 3 and 5)."""

    algorithm: Literal["ppo-max"] = "ppo-max"  # of rlhf.algorithms
    initial: Literal["sft", "base"] = "sft"  # detail 9
    iterations: Count
    rollouts: Count  # per iteration: the experience buffer
    mini_batch: Count  # rollouts per optimiser step
    micro_batch: Count  # rollouts per forward pass
    epochs: Count = 1  # over the buffer
    optimizer: Optimizer
    critic: Critic
    sampling: Sampling = Sampling()
    kl: Kl | None
    importance: Literal["policy", "reference"] = (
        "policy"  # detail 2: what the ratio divides by; policy: the sampling one
    )
    entropy: Entropy | None = None
    reward: RewardTransform
    advantage: AdvantageTransform | None = None
    gae: Gae = Gae()
    surrogate_clip: Positive | None  # detail 11: epsilon
    penalty: Penalty | None = None
    value_clip: Positive | None  # detail 7: lambda_vf
    ptx: Ptx | None = None
    trainable_layers: Count | None = None  # of policy and critic, from the top
    max_response_tokens: Count | None = None  # null: as in data
    samples_every: Count = 5  # iterations, between looks at the validation prompts
    validation_prompts: Count = 16
    alarm: Alarm = Alarm()
    keep: Literal["best", "last"] = (
        "best"  # of the policies at the looks: highest objective on the validation prompts
    )
    checkpoint_every: Count = 10  # iterations

    @model_validator(mode="after")
    def _penalty_instead_of_clip(self) -> Self:
        if self.penalty is not None and self.surrogate_clip is not None:
            raise ValueError(
                "the penalty of eq. 14 takes the place of the clip: penalty or surrogate_clip must be null"
            )
        if self.penalty is not None and self.importance != "policy":
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
        if self.mini_batch % self.micro_batch:
            raise ValueError(
                f"mini_batch {self.mini_batch} is not a multiple of micro_batch {self.micro_batch}"
            )
        return self


class Report(Section):
    """The report page."""

    dialogues: Count = 12  # shown side by side


class Settings(Section):
    """The whole of params.yaml."""

    seed: int = 1
    experiment: Name = (
        "rlhf"  # of the MLflow experiment; its models are registered as <experiment>-<model>
    )
    model: Model
    data: Data
    engine: Engine = Engine()
    sft: Sft
    reward: RewardModel
    ppo: Ppo
    gold: RewardModel
    evaluate: Evaluate
    report: Report = Report()

    @model_validator(mode="after")
    def _processes_divide_batches(self) -> Self:
        if self.ppo.validation_prompts < self.engine.processes:
            raise ValueError(
                f"ppo.validation_prompts must be at least engine.processes = {self.engine.processes}"
            )
        if self.ppo.mini_batch % (self.ppo.micro_batch * self.engine.processes):
            raise ValueError(
                f"ppo.mini_batch {self.ppo.mini_batch} is not a multiple of "
                f"ppo.micro_batch x engine.processes = {self.ppo.micro_batch * self.engine.processes}"
            )
        return self
