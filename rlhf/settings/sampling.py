"""The settings of sampling: how rollouts are drawn, by whom, and what is done about a gap."""

from typing import Annotated, ClassVar

from pydantic import Field

from rlhf.registry import SAMPLERS
from rlhf.settings.section import Positive, Section, one_of


class Sampling(Section):
    """How rollouts are sampled; the losses take log-probabilities from this very distribution."""

    LATER: ClassVar = frozenset({"sampler", "importance_cap"})

    temperature: Positive = 1.0
    sampler: Annotated[str, one_of(SAMPLERS)] = "local"
    # C: a token's loss is weighed by min(pi / mu, C), pi the policy and mu the sampler; null: by 1
    importance_cap: Annotated[float, Field(ge=1, allow_inf_nan=False)] | None = None
