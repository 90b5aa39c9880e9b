"""What every part of the settings is made of: number types, names, and sections that are frozen."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from rlhf.common.address import Address

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
# what MLflow and its searches take
Name = Annotated[str, Field(pattern=r"^[\w.-]+$")]
Addresses = Annotated[tuple[str, ...], Field(min_length=1)]


class Section(BaseModel):
    """A part of the settings: frozen, unknown keys refused.

    LATER: keys that joined after the first files were written; a file may lack them, and then their
    defaults hold, which are what the code did before.
    """

    LATER: ClassVar[frozenset[str]] = frozenset()

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        if isinstance(value, bool) and field.annotation is not bool:
            raise ValueError("true and false mean nothing here; a detail that is off is null")
        return value


def one_of(table: Mapping[str, str]) -> AfterValidator:
    """A name that a registry has."""

    def check(name: str) -> str:
        if name not in table:
            raise ValueError(f"must be one of {', '.join(sorted(table))}")
        return name

    return AfterValidator(check)


def of_kind(table: Mapping[str, str]) -> AfterValidator:
    """An address whose kind a registry has."""

    def check(text: str) -> str:
        if Address.parse(text).kind not in table:
            raise ValueError(f"must begin with one of {', '.join(sorted(table))}")
        return text

    return AfterValidator(check)
