"""The settings of rewards: what scores a response, and the services that may be asked."""

import re
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, ModelWrapValidatorHandler, model_serializer, model_validator

from rlhf.common.address import Address
from rlhf.registry import REWARDS
from rlhf.settings.section import Count, CountOrZero, Positive, Section, of_kind

Weight = Annotated[float, Field(allow_inf_nan=False)]


class RewardSource(Section):
    """One reward that responses are scored by; a bare address is one of weight 1."""

    # kind or kind:detail; rlhf/rewards/README.md has the kinds
    reward: Annotated[str, of_kind(REWARDS)]
    # what its scores are multiplied by before they are added
    weight: Weight = 1.0
    # running: its scores first become (r - mean) / std of their own history
    normalise: Literal["running"] | None = None
    # about how far its scores lie apart, the unit of the objective; null: what the source says
    score_std: Positive | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _from_address(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(value, str):
            return handler({"reward": value})
        if not isinstance(value, Mapping | cls):
            raise ValueError("must be an address, or a mapping of `reward` and `weight`")
        return handler(value)

    @model_validator(mode="after")
    def _of_known_form(self) -> Self:
        address = Address.parse(self.reward)
        form = _FORMS.get(address.kind)
        if form is not None:
            form(address.detail)
        if self.weight == 0:
            raise ValueError("weight: 0 means nothing; leave the reward out")
        return self

    @model_serializer(mode="plain")
    def _as_written(self) -> str | dict[str, Any]:
        """What says no more than its address is that address, as in files from before there were weights."""
        more = {key: getattr(self, key) for key in ("weight", "normalise", "score_std")}
        if self.is_plain:
            return self.reward
        return {"reward": self.reward, **more}

    @property
    def is_plain(self) -> bool:
        """Whether it is its address and no more."""
        return self.weight == 1 and self.normalise is None and self.score_std is None

    @property
    def address(self) -> Address:
        """What scores."""
        return Address.parse(self.reward)

    @property
    def file(self) -> str | None:
        """The file of the user's that it runs, by its path in the project."""
        address = self.address
        return python_place(address.detail)[0] if address.kind == "python" else None


class RewardService(Section):
    """A reward service of one's own, which `http:NAME` asks; rlhf/rewards/http.py has what is sent.

    On this machine unless told otherwise.
    """

    # ${VARIABLE} is read from the environment
    url: str = "http://127.0.0.1:8000/score"
    # the environment variable that holds its key; the key itself is kept nowhere
    key_variable: str | None = None
    # records of a request
    batch: Count = 64
    # requests at a time, of each process
    concurrency: Count = 4
    timeout_seconds: Positive = 60.0
    # further tries of a request that failed
    retries: CountOrZero = 5

    @model_validator(mode="after")
    def _without_secrets(self) -> Self:
        parts = urlsplit(self.url)
        if not self.url.startswith(("http://", "https://", "$")):
            raise ValueError("url: must begin with http://, https:// or ${VARIABLE}")
        if parts.username is not None or parts.password is not None or parts.query:
            raise ValueError(
                "url: without user, password and what follows a `?`, which may be secret; a key comes "
                "from the environment variable that key_variable names"
            )
        if self.key_variable and not re.fullmatch("[A-Z_][A-Z0-9_]*", self.key_variable):
            raise ValueError(
                "key_variable: must be the name of an environment variable, in capitals"
            )
        return self


def is_loopback(url: str) -> bool:
    """Whether an address is one of this machine."""
    host = urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


# -- the details of addresses ----------------------------------------------------------------------
# Each raises ValueError with the form that is right.


def python_place(detail: str) -> tuple[str, str]:
    """FILE and FUNCTION of `python:FILE:FUNCTION`; the file lies in the project, where DVC watches it."""
    file, _, function = detail.rpartition(":")
    path = PurePosixPath(file)
    if path.suffix != ".py" or not function.isidentifier():
        raise ValueError("expected python:FILE:FUNCTION, such as python:rewards/mine.py:score")
    if path.is_absolute() or ".." in path.parts or "~" in file or "$" in file:
        raise ValueError(
            f"{file} must lie in the project and be named from its root: DVC cannot see a change of "
            "a file outside of it"
        )
    return path.as_posix(), function


def overlong_lengths(detail: str) -> tuple[int, int]:
    """The longest length and the buffer before it, in tokens, of `overlong:LENGTH:BUFFER`."""
    parts = detail.split(":")
    if not (len(parts) == 2 and all(re.fullmatch("[0-9]{1,9}", part) for part in parts)):
        raise ValueError("expected overlong:LENGTH:BUFFER in tokens, such as overlong:256:64")
    length, buffer = map(int, parts)
    if not 0 < buffer <= length:
        raise ValueError(f"overlong: the buffer {buffer} must be from 1 to the length {length}")
    return length, buffer


def repetition_size(detail: str) -> int:
    """n of `repetition:N`, the length of the n-grams in tokens."""
    if not re.fullmatch("[1-9][0-9]{0,2}", detail):
        raise ValueError("expected repetition:N, such as repetition:4 for runs of four tokens")
    return int(detail)


def format_pattern(detail: str) -> re.Pattern[str]:
    """The regular expression of `format:PATTERN`; a dot stands for the end of a line too."""
    if not detail:
        raise ValueError("expected format:PATTERN, a regular expression for the whole response")
    try:
        return re.compile(detail, re.DOTALL)
    # of a repeat that is too large, of too many brackets
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"format: no regular expression: {error}") from None


def _only_model(detail: str) -> None:
    # Gold only judges: a policy that was trained against it could not be judged by it.
    if detail != "reward":
        raise ValueError("the model to train against is model:reward, no other")


def _alone(detail: str) -> None:
    if detail:
        raise ValueError("nothing stands behind its name; a weight is a key of its own")


def _directory(detail: str) -> None:
    if not detail:
        raise ValueError("expected hf:DIRECTORY of a sequence classifier with one label")


def _named(detail: str) -> None:
    if not re.fullmatch(r"[\w.-]+", detail):
        raise ValueError("expected http:NAME, a name of ppo.reward_services")


_FORMS: Mapping[str, Callable[[str], object]] = {
    "model": _only_model,
    "hf": _directory,
    "python": python_place,
    "http": _named,
    "missing-end": _alone,
    "overlong": overlong_lengths,
    "repetition": repetition_size,
    "format": format_pattern,
}
