"""The settings of models behind OpenAI-compatible servers, which judge or answer."""

import re
from typing import Any, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from rlhf.settings.section import Count, CountOrZero, NonNegative, Positive, Section

# of a request: not for an endpoint's parameters to change
_OURS = ("model", "messages", "stream", "n")
# capitals only: so that a key put here by mistake is refused
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")


class Price(Section):
    """What an endpoint costs, in any currency, per million tokens."""

    input: NonNegative
    output: NonNegative


class Endpoint(Section):
    """An OpenAI-compatible server with one of its models, as judge or as opponent."""

    # how it is asked: what it answers does not depend on them
    OPERATION: ClassVar = frozenset(
        {"concurrency", "retries", "give_up_after", "timeout_seconds", "price"}
    )

    # https://api.openai.com/v1
    base_url: str
    model: str
    # the environment variable that holds the key; the key itself is kept nowhere
    key_variable: str = "OPENAI_API_KEY"
    # questions at once
    concurrency: Count = 8
    # of a request that failed, with growing pauses or those that the server asks for
    retries: CountOrZero = 8
    # of a judge whose answer cannot be read, before it counts as no vote
    asks: Count = 3
    # of a judge's first answers, if none can be read: so many end the run; null: it goes on to the end
    give_up_after: Count | None = 5
    # three solved comparisons before each: small models need them to keep to the form
    worked_examples: bool = False
    # prompts of a comparison that a judge is asked about, drawn by their ids: a cheap trial
    limit: Count | None = None
    timeout_seconds: Positive = 60.0
    # sent with each question
    parameters: dict[str, Any] = Field(default_factory=lambda: {"temperature": 0.0})
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
                f"{', '.join(wrong)}: set by us; "
                "parameters are what else a request holds (temperature, ...)"
            )
        return parameters
