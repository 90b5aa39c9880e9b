"""Where models and data come from: one file for each kind of address.

`rlhf.registry.SOURCES` lists the kinds; `rlhf/data/README.md` shows how to add one.
"""

from rlhf.common.address import Address
from rlhf.common.errors import SourceError
from rlhf.data.sources.base import FetchRequest, FetchResult, Source
from rlhf.registry import SOURCES, find

__all__ = ["FetchRequest", "FetchResult", "Source", "find_source"]


def find_source(address: str) -> tuple[Source, Address]:
    """Make the source that an address names, and parse the address; no other source is imported.

    Raises SourceError for an unknown kind.
    """
    parsed = Address.parse(address)
    if parsed.kind not in SOURCES:
        known = ", ".join(sorted(SOURCES))
        # a kind has neither
        is_file = "/" in parsed.kind or "." in parsed.kind
        hint = f"did you mean path:{address}? " if is_file else ""
        raise SourceError(
            f"{address}: unknown kind of source {parsed.kind!r}; {hint}known: {known}"
        )
    source: Source = find(SOURCES, parsed.kind)()
    return source, parsed
