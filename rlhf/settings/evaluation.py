"""The settings of evaluation: opponents, judges, how responses are sampled, the alignment tax."""

import re
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from rlhf.settings.section import Count, CountOrZero, Name, NonNegative, Positive, Section


class Generation(Section):
    """How responses to be judged are sampled (section 6.1).

    The paper also names a length penalty of 1.2. It ranks finished beams, as log p / length^1.2; a sampled response
    is one beam with nothing to be ranked against, so it has no effect here and no key.
    """

    temperature: Positive = 0.8
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    repetition_penalty: Positive = 1.1
    max_new_tokens: Count
    batch_size: Count = 16


class Price(Section):
    """What an endpoint costs, in any currency, per million tokens."""

    input: NonNegative
    output: NonNegative


_OURS = ("model", "messages", "stream", "n")  # of a request: not for parameters to change
_VARIABLE = re.compile(
    r"[A-Z_][A-Z0-9_]*"
)  # capitals only: so that a key put here by mistake is refused


class Endpoint(Section):
    """An OpenAI-compatible server with one of its models, as judge or as opponent."""

    base_url: str  # https://api.openai.com/v1
    model: str
    key_variable: str = "OPENAI_API_KEY"  # the environment variable that holds the key; the key itself is kept nowhere
    concurrency: Count = 8  # questions at once
    retries: CountOrZero = (
        8  # of a request that failed, with growing pauses or those that the server asks for
    )
    asks: Count = 3  # of a judge whose answer can't be read, before it counts as no vote
    worked_examples: bool = (
        False  # three solved comparisons before each: small models need them to keep to the form
    )
    limit: Count | None = (
        None  # prompts of a comparison that a judge is asked about, drawn by their ids: a cheap trial
    )
    timeout_seconds: Positive = 60.0
    parameters: dict[str, Any] = Field(
        default_factory=lambda: {"temperature": 0.0}
    )  # sent with each question
    price: Price | None = None

    @field_validator("base_url")
    @classmethod
    def _plain_address(cls, address: str) -> str:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an address like https://api.openai.com/v1 is needed")
        if parts.username is not None or parts.password is not None:
            raise ValueError(
                "no user and password in an address: settings are recorded, secrets are not"
            )
        return address

    @field_validator("key_variable")
    @classmethod
    def _name_of_a_variable(cls, name: str) -> str:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(
                "the name of an environment variable in capitals is needed, not the key itself"
            )
        return name

    @field_validator("parameters")
    @classmethod
    def _not_ours(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        if wrong := sorted(set(parameters) & set(_OURS)):
            raise ValueError(
                f"{', '.join(wrong)}: set by us; parameters are what else a request holds (temperature, ...)"
            )
        return parameters


class Promotion(Section):
    """When an evaluated policy becomes champion."""

    above: Annotated[float, Field(ge=0, lt=1)] = (
        0.5  # the interval of its win rate over the champion lies above this
    )
    verdicts: Count = 30  # fewer than these, or than half of the prompts, promote nothing


class Tax(Section):
    """The alignment tax (fig. 12): what each model knows of a benchmark by likelihood, and its loss on plain text."""

    models: tuple[Name, ...] = ("base", "sft", "policy")  # and opponents that are a path:
    tasks: tuple[str, ...] = (
        "starter",
    )  # starter: questions that ship with us; others are tasks of lm-eval
    limit: Count | None = None  # questions of a task


class Evaluate(Section):
    """Which models are compared, by whom, and when a comparison is a tie."""

    comparisons: tuple[tuple[str, str], ...] = (
        ("policy", "sft"),
        ("sft", "base"),
    )  # challenger, baseline; headline first
    opponents: dict[Name, str] = Field(
        default_factory=dict
    )  # beside base, sft, policy: path:, file: or api:ENDPOINT
    judges: tuple[str, ...] = ("gold",)  # headline first: gold, rules, api:ENDPOINT, people:FILE
    endpoints: dict[Name, Endpoint] = Field(default_factory=dict)
    generation: Generation
    tie_probability: Annotated[float, Field(ge=0.5, lt=1)] = (
        0.55  # gold must be this sure, else it is a tie
    )
    promotion: Promotion | None = Field(default_factory=Promotion)  # null: never
    tax: Tax | None = None

    @model_validator(mode="after")
    def _known_models(self) -> Self:
        known = {"base", "sft", "policy", *self.opponents}
        unknown = sorted({name for pair in self.comparisons for name in pair} - known)
        if unknown or not self.comparisons:
            raise ValueError(
                f"comparisons: {unknown or 'empty'}; a comparison is a pair of {sorted(known)}"
            )
        if len(set(self.comparisons)) < len(self.comparisons) or any(
            first == second for first, second in self.comparisons
        ):
            raise ValueError("comparisons: a pair twice, or a model with itself")
        local = {
            "base",
            "sft",
            "policy",
            *(name for name, at in self.opponents.items() if at.startswith("path:")),
        }
        if self.tax is not None and (unknown := sorted(set(self.tax.models) - local)):
            raise ValueError(
                f"tax.models: {unknown}; likelihoods need a model at hand, of which there are {sorted(local)}"
            )
        return self

    @model_validator(mode="after")
    def _known_judges(self) -> Self:
        kinds = ("gold", "rules", "api:ENDPOINT", "people:FILE")
        for judge in self.judges:
            name, colon, detail = judge.partition(":")
            if not any(
                name == kind.split(":")[0] and bool(colon and detail) == (":" in kind)
                for kind in kinds
            ):
                raise ValueError(f"judges: {judge!r}; a judge is one of {', '.join(kinds)}")
        if not self.judges or len({judge_name(judge) for judge in self.judges}) < len(self.judges):
            raise ValueError("judges: at least one, and no name twice")
        if taken := sorted(self.endpoints.keys() & {"gold", "rules", "people"}):
            raise ValueError(f"endpoints: {', '.join(taken)}: the name of a judge of another kind")
        for address in (*self.judges, *self.opponents.values()):
            kind, _, endpoint = address.partition(":")
            if kind == "api" and endpoint not in self.endpoints:
                raise ValueError(
                    f"{address}: no such endpoint; endpoints has {sorted(self.endpoints) or 'none'}"
                )
        for name, address in self.opponents.items():
            kind, _, detail = address.partition(":")
            if (
                kind not in ("path", "file", "api")
                or not detail
                or name in ("base", "sft", "policy")
            ):
                raise ValueError(
                    f"opponents.{name}: {address!r}; an opponent is path:, file: or api: under a new name"
                )
        return self


def judge_name(address: str) -> str:
    """The name of a judge in metrics and tables: that of its endpoint, or of its kind."""
    kind, _, detail = address.partition(":")
    return detail if kind == "api" else kind
