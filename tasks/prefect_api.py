"""Whether the Prefect server that the environment names can be used: told in one line, before any work."""

from importlib.metadata import version

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from rlhf.common.address import without_credentials
from rlhf.common.errors import RlhfError

_CLOUD = "api.prefect.cloud"


def refuse_unusable_prefect(url: str) -> None:
    """Ask the API at `url` once; raises RlhfError where it is away, of another version or wants a key."""
    # Prefect itself is patient with servers that it knows
    settings = {PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: 0}
    try:
        with temporary_settings(settings), get_client(sync_client=True) as client:
            fault = client.api_healthcheck()
            if fault is None:
                client.raise_for_api_version_mismatch()
    # a RuntimeError is what Prefect makes of another major version
    except (RuntimeError, httpx.HTTPError, PrefectException) as error:
        fault = error
    if fault is not None:
        raise RlhfError(
            f"Prefect at {without_credentials(url)} cannot be used: {_reason(fault, url)}; "
            "unset PREFECT_API_URL to use the workspace's own server"
        ) from None


def _reason(fault: BaseException, url: str) -> str:
    """The cause at the bottom, on one line; with what is missing where a key is."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    status = getattr(getattr(fault, "response", None), "status_code", None)
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        variable = "PREFECT_API_KEY" if _CLOUD in url else "PREFECT_API_AUTH_STRING"
        return f"it refuses us ({status}), see {variable}"
    if status is not None:
        return f"it answers {status}; this is Prefect {version('prefect')}, and its address ends in /api"
    text = " ".join(str(fault).split())
    return without_credentials(text or type(fault).__name__)
