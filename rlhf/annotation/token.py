"""Pages that leave loopback are behind a token: first in the address that is handed out, then in a cookie."""

import secrets
from collections.abc import Awaitable, Callable

from fastapi import Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response

COOKIE = "rlhf-annotate"
NO_ENTRY = "Ask for the address that `rlhf annotate` printed: it ends in ?token=..."


class TokenGate:
    """Lets in who brings the token in the address or in the cookie; all others get 403.

    The address gives the cookie and sends on to the same page without the token, so that no history,
    picture of the screen or referrer has it.
    """

    def __init__(self, token: str) -> None:
        self._token = token

    async def __call__(
        self, request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Answer a request, or refuse it."""
        in_address = request.query_params.get("token")
        if not self._is_right(in_address or request.cookies.get(COOKIE, "")):
            return PlainTextResponse(NO_ENTRY, 403)
        if in_address is None:
            return await answer(request)
        page = request.url.remove_query_params("token")
        # one slash: two would name another host
        path = "/" + page.path.lstrip("/")
        response = RedirectResponse(path + (f"?{page.query}" if page.query else ""), 303)
        # lax: who follows a link in a message must have it on the page that comes next
        response.set_cookie(COOKIE, in_address, httponly=True, samesite="lax")
        return response

    def _is_right(self, given: str) -> bool:
        return secrets.compare_digest(given.encode(), self._token.encode())
