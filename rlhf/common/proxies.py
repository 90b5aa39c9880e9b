"""A proxy of the environment that Python's HTTP client here cannot speak to, told in one line."""

import importlib.util
import os

from rlhf.common.address import without_credentials
from rlhf.common.errors import RlhfError

_VARIABLES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")


def refuse_socks_proxy() -> None:
    """Raise RlhfError where a variable names a SOCKS proxy, and httpx has no package for it.

    httpx makes its transports before it looks at NO_PROXY, for loopback too.
    """
    if importlib.util.find_spec("socksio") is not None:
        return
    for variable in (name for upper in _VARIABLES for name in (upper.lower(), upper)):
        address = os.environ.get(variable, "")
        if address.lower().startswith("socks"):
            raise RlhfError(
                f"{variable}={without_credentials(address)}: for a SOCKS proxy the package socksio is "
                f"needed (pip install socksio); or unset {variable}"
            )
