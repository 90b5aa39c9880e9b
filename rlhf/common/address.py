"""Addresses of the settings, `kind:detail`: `path:models/mine`, `api:gpt-4`, `starter`."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Self

from rlhf.common.errors import RlhfError


@dataclass(frozen=True)
class Address:
    """What stands before the first colon and what stands behind it ("" without a colon)."""

    kind: str
    detail: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Split an address; any text is one, whoever reads it knows which kinds there are."""
        kind, _, detail = text.partition(":")
        return cls(kind, detail)

    def __str__(self) -> str:
        return f"{self.kind}:{self.detail}" if self.detail else self.kind

    @property
    def path(self) -> Path:
        """The detail as a path, `~` and environment variables expanded; raises RlhfError."""
        return expand_home(self.written_path, f"{self}: ")

    @property
    def written_path(self) -> str:
        """The path as it is written, environment variables expanded but not `~`; raises RlhfError."""
        try:
            expanded = Template(self.detail).substitute(os.environ)
        except KeyError as error:
            raise RlhfError(
                f"{self}: the environment variable {error.args[0]} is not set"
            ) from None
        except ValueError:
            raise RlhfError(
                f"{self}: `$` begins a variable, as in ${{HOME}}; write `$$` for the sign itself"
            ) from None
        if not expanded:
            raise RlhfError(f"{self}: a path is missing behind the colon")
        return expanded


def expand_home(path: str, where: str = "") -> Path:
    """A path with `~` expanded; raises RlhfError where that home is not known."""
    try:
        return Path(path).expanduser()
    # no such user, or a process whose user has no name and no HOME, as in some containers
    except RuntimeError:
        raise RlhfError(
            f"{where}{path}: no home directory is known; set HOME, or write the whole path"
        ) from None


def without_credentials(text: str) -> str:
    """Give `text` without the user name and password of the addresses in it, fit for logs."""
    return re.sub(r"(?<=://)[^/\s]+@", "", text)
