"""The settings of what trains: the engine, the optimiser, supervised fine-tuning, reward models."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rlhf.registry import ENGINES
from rlhf.settings.section import (
    Count,
    Decay,
    Fraction,
    NonNegative,
    Positive,
    Section,
    one_of,
)


class EngineSettings(Section):
    """How training runs on the machine."""

    LATER: ClassVar = frozenset({"frozen_models", "offload"})

    # torch: one process; deepspeed: any number, with ZeRO
    kind: Annotated[str, one_of(ENGINES)] = "torch"
    # auto: bf16 where the hardware multiplies it faster, else fp32
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    # one per GPU; those of all hosts together
    processes: Count = 1
    # deepspeed only
    zero_stage: Literal[1, 2, 3] = 2
    # deepspeed only, of stage ppo: where models that are only read are kept. whole: on each card;
    # sharded: a part on each, put together block by block when read; host: the parts in host memory.
    # With ppo.lora they stay whole: they share their weights with the models that learn
    frozen_models: Literal["whole", "sharded", "host"] = "whole"
    # deepspeed only: what of the models that learn is kept in host memory. optimizer: moments and
    # float32 weights, which the processor steps; optimizer-and-parameters: with zero_stage 3 the
    # weights too, fetched where they are run
    offload: Literal["none", "optimizer", "optimizer-and-parameters"] = "none"
    # recompute activations in the backward pass: less memory, a third more time
    gradient_checkpointing: bool = False
    # of torch on a CPU; null: one per core, or as many as the container's quota allows
    threads: Count | None = None

    @model_validator(mode="after")
    def _many_processes_need_deepspeed(self) -> Self:
        if self.processes > 1 and self.kind == "torch":
            raise ValueError("processes > 1 needs kind: deepspeed")
        return self

    @model_validator(mode="after")
    def _parts_need_deepspeed(self) -> Self:
        if self.frozen_models != "whole" and self.kind == "torch":
            raise ValueError(f"frozen_models: {self.frozen_models} needs kind: deepspeed")
        return self

    @model_validator(mode="after")
    def _offload_needs_deepspeed(self) -> Self:
        if self.offload != "none" and self.kind == "torch":
            raise ValueError(f"offload: {self.offload} needs kind: deepspeed")
        if self.offload == "optimizer-and-parameters" and self.zero_stage != 3:
            raise ValueError(
                f"offload: {self.offload} needs zero_stage: 3, which alone keeps weights in parts"
            )
        return self


class Optimizer(Section):
    """AdamW and its learning-rate schedule."""

    learning_rate: Positive
    # share of the steps in which the rate rises linearly from 0
    warmup_fraction: Fraction = 0.1
    decay: Literal["cosine", "constant", "inverse_sqrt"] = "cosine"
    # share of the peak at which the cosine ends
    final_fraction: Fraction = 0.1
    beta1: Decay = 0.9
    beta2: Decay = 0.95
    epsilon: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    # detail 12, the norm over all gradients; null: no clipping
    max_gradient_norm: Positive | None = 1.0


class Lora(Section):
    """Low-rank adapters that learn in place of the weights (arXiv 2106.09685); null: the weights learn."""

    rank: Count = 16
    # the adapter's share is alpha / rank
    alpha: Positive = 32.0
    # of what an adapter reads, while it learns; not where log-probabilities are compared: dpo, ppo
    dropout: Decay = 0.0
    # names of linear layers, as q_proj; null: all in the blocks
    target_modules: Annotated[tuple[str, ...], Field(min_length=1)] | None = None


def without_dropout(lora: Lora | None) -> Lora | None:
    """Adapters of what learns from ratios of log-probabilities."""
    if lora is not None and lora.dropout:
        raise ValueError(
            "dropout must be 0 here: what is learnt from is a ratio to log-probabilities taken without "
            "it, and would show the dropout"
        )
    return lora


class Sft(Section):
    """Supervised fine-tuning (section 5.1)."""

    LATER: ClassVar = frozenset({"lora"})

    # a fraction cuts the last epoch short
    epochs: Positive
    # most tokens in one optimiser step, padding included
    batch_tokens: Count
    # most tokens in one forward pass
    micro_batch_tokens: Count
    optimizer: Optimizer
    # from the top; null: all of them and the embeddings
    trainable_layers: Count | None = None
    # in these layers; null: off, the weights themselves learn
    lora: Lora | None = None
    # steps between validations
    evaluate_every: Count = 20
    # steps between resume checkpoints
    checkpoint_every: Count = 50


class ProcessRewardModel(Section):
    """A process reward model: the probability that each step of an answer is right."""

    LATER: ClassVar = frozenset({"lora"})

    initial: Literal["base", "sft"] = "sft"
    epochs: Positive = 1.0
    # null: all that the epochs give
    max_steps: Count | None = None
    # tokens as in Sft
    batch_tokens: Count
    micro_batch_tokens: Count
    optimizer: Optimizer
    trainable_layers: Count | None = None
    lora: Lora | None = None
    evaluate_every: Count = 20
    checkpoint_every: Count = 50


class PairTraining(Section):
    """What learns from preference pairs has in common."""

    LATER: ClassVar = frozenset({"lora"})

    epochs: Positive
    # null: all that the epochs give
    max_steps: Count | None = None
    # tokens as in Sft; a prompt counts once, its two answers share it
    batch_tokens: Count
    micro_batch_tokens: Count
    # pairs in one batch, at least and at most
    min_pairs: Count = 4
    max_pairs: Count = 128
    # repeat the pairs of the scarcer kind: both weigh the same in an epoch
    balance_kinds: bool = False
    optimizer: Optimizer
    trainable_layers: Count | None = None
    lora: Lora | None = None
    evaluate_every: Count = 20
    checkpoint_every: Count = 50

    @model_validator(mode="after")
    def _pairs_in_order(self) -> Self:
        if self.min_pairs > self.max_pairs:
            raise ValueError(f"min_pairs {self.min_pairs} is above max_pairs {self.max_pairs}")
        needed = 2 * self.min_pairs - 1
        if self.max_pairs < needed:
            raise ValueError(
                f"max_pairs {self.max_pairs}: batches of {self.min_pairs} need {needed}"
            )
        return self


class RewardModel(PairTraining):
    """A pairwise reward model (section 3.1, eq. 1-2)."""

    LATER: ClassVar = PairTraining.LATER | {"cut_answers"}

    initial: Literal["base", "sft"] = "sft"
    # beta_rm, the weight of the imitation loss on the preferred answer (eq. 2)
    lm_coefficient: NonNegative = 1.0
    # for this share of the pairs one more: the chosen answer above the same one cut off
    cut_answers: Fraction = 0.0


class Dpo(PairTraining):
    """Direct preference optimisation of the SFT model (arXiv 2305.18290); null: the stage is off."""

    lora: Annotated[Lora | None, AfterValidator(without_dropout)] = None
    # how strongly the reference holds: the implicit reward is beta log(pi / pi_ref)
    beta: Positive = 0.1
    # ipo: the squared loss of arXiv 2310.12036, on sums of log-probabilities like the other
    loss: Literal["sigmoid", "ipo"] = "sigmoid"
    # of sigmoid: the share of pairs that are taken to be labelled the wrong way round
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0

    @model_validator(mode="after")
    def _smoothing_of_sigmoid(self) -> Self:
        if self.loss == "ipo" and self.label_smoothing:
            raise ValueError("label_smoothing belongs to loss: sigmoid; it must be 0 with ipo")
        return self
