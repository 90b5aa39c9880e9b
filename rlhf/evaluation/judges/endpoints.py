"""Clients of OpenAI-compatible endpoints, and errors told without the key."""

import os

import openai

from rlhf.common.errors import JudgeError
from rlhf.settings.evaluation import Endpoint

_SECRET = 8  # letters; what is shorter ("none") is no key, and would be struck out of words


def client_of(name: str, endpoint: Endpoint) -> openai.OpenAI:
    """Make a client that tries once; its key comes from the environment and is kept nowhere else.

    Raises JudgeError when the variable is not set.
    """
    key = os.environ.get(endpoint.key_variable)
    if not key:
        raise JudgeError(
            f"evaluate.endpoints.{name}.key_variable: {endpoint.key_variable} is not set; it holds the key for "
            f"{endpoint.base_url} (any text where the server asks for none)"
        )
    return openai.OpenAI(
        api_key=key, base_url=endpoint.base_url, timeout=endpoint.timeout_seconds, max_retries=0
    )


def told(error: Exception, client: openai.OpenAI) -> str:
    """An error's text, without the key that a server may repeat in it."""
    key = client.api_key
    return str(error).replace(key, "***") if len(key) >= _SECRET else str(error)
