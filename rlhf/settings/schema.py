"""The whole of params.yaml. A detail that is off is `null`; rlhf/settings/README.md is the guide."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from rlhf.settings.evaluation import Evaluate
from rlhf.settings.hosts import Hosts, unequal
from rlhf.settings.policy import Ppo
from rlhf.settings.reads import NEEDS_WHOLE_WEIGHTS, OPTIONAL_MODELS
from rlhf.settings.section import Addresses, Count, Fraction, Name, Positive, Section
from rlhf.settings.training import Dpo, EngineSettings, ProcessRewardModel, RewardModel, Sft


def _is_template(text: str) -> str:
    if text not in ("chatml", "own", "plain") and not text.startswith("path:"):
        raise ValueError("must be chatml, own, plain or path:FILE")
    return text


Template = Annotated[str, AfterValidator(_is_template)]


class Model(Section):
    """The base model."""

    LATER = frozenset({"add_tokens", "pad_token", "system_messages"})

    # wheel:NAME==VERSION, hub:OWNER/NAME@REVISION, path:DIR or random:LAYERSxWIDTH (tests)
    source: str
    # of the wheel, or of the directory tree; null: recorded, not checked
    sha256: str | None = None
    # chatml: no system prompt is put in; own: the model's; plain: text alone, for bases without
    # special tokens; path:FILE: a template in Jinja
    chat_template: Template = "chatml"
    # joined to the tokenizer, with embeddings for them: those of chatml, for one
    add_tokens: tuple[str, ...] = ()
    # null: one is found, or added
    pad_token: str | None = None
    # template: as the template has them, and rows that it refuses are dropped; fold: in the user's
    # first turn
    system_messages: Literal["template", "fold"] = "template"


class Data(Section):
    """Where data comes from and how it is cut; every list holds source addresses."""

    LATER = frozenset({"columns", "cleaning", "repeated_roles", "weights"})

    # demonstrations
    sft: Addresses
    # pairs, for the reward and the gold model
    preferences: Addresses
    # of PPO
    prompts: Addresses
    # prompts held out for the judges
    evaluation: Addresses
    # plain text, for the ptx loss
    pretrain: Addresses
    # answers in steps with a label each, for the process reward model; empty: none
    steps: tuple[str, ...] = ()
    # stands between the steps of an answer
    step_separator: Annotated[str, Field(min_length=1)] = "\n"
    max_prompt_tokens: Count
    max_response_tokens: Count
    # length of one window of plain text
    pretrain_tokens: Count
    # of opening turns
    validation_fraction: Fraction = 0.05
    # of opening turns; a source with a test split of its own keeps that instead
    test_fraction: Fraction = 0.10
    # of the preference openings left for training: set aside for the gold model
    gold_fraction: Fraction = 0.5
    # rows kept per "table.split", or per "table.split.kind"
    limits: dict[str, Count] = Field(default_factory=dict)
    # those over max_response_tokens
    long_responses: Literal["truncate", "drop"] = "truncate"
    # rows that cannot be used
    broken: Literal["drop", "refuse"] = "drop"
    # of the training rows of an address: 2.5 takes each twice and half of them once more
    weights: dict[str, Positive] = Field(default_factory=dict)
    # names that the files have for columns that we know by another one: {prompt: frage}
    columns: dict[str, str] = Field(default_factory=dict)
    # beyond line ends and unusable characters. html: entities, and tags that shape text; characters:
    # rare blanks and line ends, invisible ones; blanks: at ends of lines and of texts, empty lines
    cleaning: tuple[Literal["html", "characters", "blanks"], ...] = ()
    # two turns of one role in a row, and system messages between turns
    repeated_roles: Literal["drop", "join"] = "drop"

    @model_validator(mode="after")
    def _fractions_leave_training_data(self) -> Self:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                "validation_fraction + test_fraction must stay below 1, "
                "nothing would be left to train on"
            )
        return self

    @model_validator(mode="after")
    def _weights_of_known_addresses(self) -> Self:
        known = {
            *(*self.sft, *self.preferences, *self.prompts, *self.evaluation),
            *(*self.pretrain, *self.steps),
        }
        for address in self.weights:
            if address not in known:
                raise ValueError(f"weights: {address!r} is in none of the lists of addresses")
        return self


class Report(Section):
    """The report page."""

    # shown side by side
    dialogues: Count = 12


class Mlflow(Section):
    """What MLflow's registry keeps of a model."""

    # link: the same file again where the artifacts lie on the same disk, else a copy; copy: always;
    # reference: none, they stay with DVC, and `rlhf weights` brings them
    weights: Literal["link", "copy", "reference"] = "link"


class Settings(Section):
    """The whole of params.yaml."""

    LATER = frozenset({"hosts", "mlflow"})

    # torch's generator on a CPU takes 32 bits of what is derived from it
    seed: int = 1
    # of the MLflow experiment; its models are registered as <experiment>-<model>
    experiment: Name = "rlhf"
    model: Model
    data: Data
    engine: EngineSettings = EngineSettings()
    # null: this machine alone
    hosts: Hosts | None = None
    sft: Sft
    # null: off, where ppo.rewards names others
    reward: RewardModel | None
    # null: off; every file has the key, as DVC needs it for the stage's parameters
    dpo: Dpo | None = None
    # null: off, as dpo
    process: ProcessRewardModel | None = None
    ppo: Ppo
    # null: off, where another model judges (evaluate.gold), or none
    gold: RewardModel | None
    evaluate: Evaluate
    report: Report = Report()
    mlflow: Mlflow = Mlflow()

    @model_validator(mode="after")
    def _processes_divide_batches(self) -> Self:
        ppo, processes = self.ppo, self.engine.processes
        if ppo.validation_prompts < processes:
            raise ValueError(
                f"ppo.validation_prompts must be at least engine.processes = {processes}"
            )
        if ppo.mini_batch % (ppo.micro_batch * processes):
            raise ValueError(
                f"ppo.mini_batch {ppo.mini_batch} is not a multiple of "
                f"ppo.micro_batch x engine.processes = {ppo.micro_batch * processes}"
            )
        if ppo.mini_batch % (ppo.responses * processes):
            raise ValueError(
                f"ppo.mini_batch {ppo.mini_batch} is not a multiple of "
                f"ppo.responses x engine.processes = {ppo.responses * processes}: "
                "the responses to a prompt stay together"
            )
        return self

    @model_validator(mode="after")
    def _steps_to_learn_from(self) -> Self:
        if self.process is not None and not self.data.steps:
            raise ValueError(
                "the section process trains on the answers in steps of data.steps, which is empty: "
                "name a source there"
            )
        return self

    @model_validator(mode="after")
    def _reward_models_that_are_read(self) -> Self:
        ppo, evaluate = self.ppo, self.evaluate
        if self.reward is None and any(one.reward == "model:reward" for one in ppo.rewards):
            raise ValueError(
                "ppo.rewards names model:reward, whose stage is off (reward: null): name others, such "
                "as hf:DIRECTORY, or give the section reward"
            )
        if self.reward is None and ppo.critic is not None and ppo.critic.initial == "reward":
            raise ValueError(
                "ppo.critic.initial is reward, a model whose stage is off (reward: null): set it to sft"
            )
        if self.gold is None and "gold" in evaluate.judges and evaluate.gold is None:
            raise ValueError(
                "evaluate.judges names gold, whose stage is off (gold: null): set evaluate.gold: "
                "hf:DIRECTORY, name other judges, or give the section gold"
            )
        if self.gold is not None and not self.data.gold_fraction:
            raise ValueError(
                "data.gold_fraction is 0, which leaves no pairs for the gold model: raise it, or set "
                "gold: null"
            )
        return self

    @model_validator(mode="after")
    def _models_that_the_algorithm_reads(self) -> Self:
        name = self.ppo.algorithm
        for section in OPTIONAL_MODELS.get(name, ()):
            if getattr(self, section) is None:
                raise ValueError(
                    f"ppo.algorithm {name} reads models/{section}, whose stage is off: give the "
                    f"section {section}, as `rlhf preset NAME --variant {name}` does"
                )
        return self

    @model_validator(mode="after")
    def _processes_divide_rows(self) -> Self:
        processes = self.engine.processes
        for name in ("aihf", "aihf_direct"):
            section = getattr(self.ppo, name)
            for key in ("demonstrations", "pairs"):
                count = processes if section is None else getattr(section, key)
                if count % processes:
                    raise ValueError(
                        f"ppo.{name}.{key} {count} is not a multiple of "
                        f"engine.processes = {processes}"
                    )
        return self

    @model_validator(mode="after")
    def _several_hosts(self) -> Self:
        if self.hosts is None:
            return self
        if self.engine.kind != "deepspeed":
            raise ValueError(
                f"hosts needs engine.kind: deepspeed; {self.engine.kind} is one process"
            )
        slots, processes = self.hosts.slots, self.engine.processes
        if slots is not None and sum(slots.values()) != processes:
            raise ValueError(f"hosts.slots: {unequal(slots, processes)}")
        if self.ppo.sampling.sampler == "vllm":
            raise ValueError(
                "hosts needs another ppo.sampling.sampler than vllm, such as local: its server answers "
                "the processes of its own machine alone"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_whole(self) -> Self:
        if self.ppo.algorithm not in NEEDS_WHOLE_WEIGHTS:
            return self
        if self.engine.kind == "deepspeed" and self.engine.zero_stage == 3:
            raise ValueError(
                f"algorithm {self.ppo.algorithm} needs engine.zero_stage 1 or 2: its target network "
                "follows whole weights, which stage 3 keeps in parts"
            )
        if self.engine.frozen_models != "whole":
            raise ValueError(
                f"algorithm {self.ppo.algorithm} needs engine.frozen_models: whole: its target network "
                "is written to after each step"
            )
        return self
