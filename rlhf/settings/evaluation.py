"""The settings of evaluation: opponents, judges, how responses are sampled, the alignment tax."""

import re
from typing import Annotated, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from rlhf.common.address import Address
from rlhf.registry import JUDGES
from rlhf.settings.endpoints import Endpoint
from rlhf.settings.section import (
    Count,
    Name,
    NonNegative,
    Positive,
    Section,
    of_kind,
)

_STAGE_MODELS = ("base", "sft", "policy")
# what must follow the colon in the address of a judge; the others stand alone
_DETAIL_OF_JUDGE = {"api": "ENDPOINT", "people": "FILE"}


class Generation(Section):
    """How responses to be judged are sampled (section 6.1).

    The paper also names a length penalty of 1.2. It ranks finished beams, as log p / length^1.2; a
    sampled response is one beam with nothing to be ranked against, so it has no effect and no key.
    """

    # 0: greedy, the likeliest token always
    temperature: NonNegative = 0.8
    # the nucleus
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    # 1: none
    repetition_penalty: Positive = 1.1
    max_new_tokens: Count
    batch_size: Count = 16


class Promotion(Section):
    """When an evaluated policy becomes champion."""

    # the interval of its win rate over the champion must lie above this
    above: Annotated[float, Field(ge=0, lt=1)] = 0.5
    # fewer than these, or than half of the prompts, promote nothing
    verdicts: Count = 30


class Tax(Section):
    """The alignment tax (fig. 12): what each model knows by likelihood, and its loss on plain text."""

    # of the stages, and opponents that are a path:
    models: tuple[Name, ...] = _STAGE_MODELS
    # starter: questions that ship with us; others are tasks of lm-eval
    tasks: tuple[str, ...] = ("starter",)
    # questions of a task; null: all
    limit: Count | None = None


class Evaluate(Section):
    """Which models are compared, by whom, and when a comparison is a tie."""

    LATER: ClassVar = frozenset({"gold"})

    # challenger and baseline; the first pair is the headline
    comparisons: tuple[tuple[str, str], ...] = (("policy", "sft"), ("sft", "base"))
    # beside base, sft and policy: path:DIR, file:RESPONSES or api:ENDPOINT
    opponents: dict[Name, str] = Field(default_factory=dict)
    # gold, rules, api:ENDPOINT, people:FILE; the first is the headline
    judges: tuple[Annotated[str, of_kind(JUDGES)], ...] = ("gold",)
    # null: models/gold; hf:DIRECTORY: somebody else's reward model, with a tokenizer of its own
    gold: str | None = None
    endpoints: dict[Name, Endpoint] = Field(default_factory=dict)
    generation: Generation
    # gold must be this sure, else it is a tie
    tie_probability: Annotated[float, Field(ge=0.5, lt=1)] = 0.55
    # null: never
    promotion: Promotion | None = Field(default_factory=Promotion)
    tax: Tax | None = None

    @model_validator(mode="after")
    def _known_models(self) -> Self:
        known = {*_STAGE_MODELS, *self.opponents}
        unknown = sorted({name for pair in self.comparisons for name in pair} - known)
        if unknown or not self.comparisons:
            raise ValueError(
                f"comparisons: {unknown or 'empty'}; a comparison is a pair of {sorted(known)}"
            )
        with_itself = any(first == second for first, second in self.comparisons)
        if with_itself or len(set(self.comparisons)) < len(self.comparisons):
            raise ValueError("comparisons: a pair twice, or a model with itself")
        return self

    @model_validator(mode="after")
    def _tax_of_models_at_hand(self) -> Self:
        if self.tax is None:
            return self
        paths = [name for name, at in self.opponents.items() if Address.parse(at).kind == "path"]
        at_hand = {*_STAGE_MODELS, *paths}
        if unknown := sorted(set(self.tax.models) - at_hand):
            raise ValueError(
                f"tax.models: {unknown}; likelihoods need a model at hand, "
                f"of which there are {sorted(at_hand)}"
            )
        return self

    @field_validator("gold")
    @classmethod
    def _gold_is_a_classifier(cls, gold: str | None) -> str | None:
        if gold is not None and not re.fullmatch("hf:.+", gold):
            raise ValueError(f"{gold!r}; expected hf:DIRECTORY, or null for models/gold")
        return gold

    @model_validator(mode="after")
    def _complete_judges(self) -> Self:
        for judge in self.judges:
            address = Address.parse(judge)
            detail = _DETAIL_OF_JUDGE.get(address.kind)
            if detail and not address.detail:
                raise ValueError(f"judges: {judge!r}; expected {address.kind}:{detail}")
            if address.kind in ("gold", "rules") and judge != address.kind:
                raise ValueError(f"judges: {judge!r}; {address.kind} stands alone")
        if not self.judges or len({judge_name(judge) for judge in self.judges}) < len(self.judges):
            raise ValueError("judges: at least one, and no name twice")
        if taken := sorted(self.endpoints.keys() & (JUDGES.keys() - {"api"})):
            raise ValueError(f"endpoints: {', '.join(taken)}: the name of a judge of another kind")
        return self

    @model_validator(mode="after")
    def _known_opponents(self) -> Self:
        for name, text in self.opponents.items():
            address = Address.parse(text)
            known = address.kind in ("path", "file", "api") and address.detail
            if not known or name in _STAGE_MODELS:
                raise ValueError(
                    f"opponents.{name}: {text!r}; "
                    "an opponent is path:, file: or api: under a new name"
                )
        return self

    @model_validator(mode="after")
    def _known_endpoints(self) -> Self:
        for text in (*self.judges, *self.opponents.values()):
            address = Address.parse(text)
            if address.kind == "api" and address.detail not in self.endpoints:
                there = sorted(self.endpoints) or "none"
                raise ValueError(f"{text}: no such endpoint; endpoints has {there}")
        return self


def judge_name(text: str) -> str:
    """The name of a judge in metrics and tables: that of its endpoint, or of its kind."""
    address = Address.parse(text)
    return address.detail if address.kind == "api" else address.kind
