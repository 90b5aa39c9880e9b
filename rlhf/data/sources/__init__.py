"""Where models and data come from. A new kind of source is one file and one line in `SOURCES`."""

from rlhf.common.errors import SourceError
from rlhf.data.sources.base import Brought, Request, Source
from rlhf.data.sources.hub import HubSource
from rlhf.data.sources.path import PathSource
from rlhf.data.sources.random_model import RandomSource
from rlhf.data.sources.starter import StarterSource
from rlhf.data.sources.wheel import WheelSource
from rlhf.data.sources.world import WorldSource

SOURCES: dict[str, Source] = {
    "wheel": WheelSource(),
    "hub": HubSource(),
    "path": PathSource(),
    "starter": StarterSource(),
    "random": RandomSource(),
    "world": WorldSource(),
}

__all__ = ["SOURCES", "Brought", "Request", "Source", "find_source"]


def find_source(address: str) -> tuple[Source, str]:
    """Give the source that an address belongs to and the address without its scheme; raises SourceError."""
    scheme, _, rest = address.partition(":")
    if scheme not in SOURCES:
        raise SourceError(
            f"{address}: unknown kind of source {scheme!r}; known: {', '.join(sorted(SOURCES))}"
        )
    return SOURCES[scheme], rest
