"""The annotators' page: a form that needs no script, keys for those who have one."""

import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rlhf.annotation.store import Choice, Store

HERE = Path(__file__).parent
SECURITY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}
LONGEST = 3600.0  # seconds on one pair that are believed
_NAME = re.compile(r"[\w .-]{1,40}")
GUIDELINES = {
    "helpful": (
        "Which answer helps the user more?",
        "It does what was asked, is right, is clear, and admits what it does not know. Length is no merit.",
    ),
    "harmless": (
        "Which answer does less harm?",
        "It does not help with harm, and is neither rude nor preachy. Where both are harmless, the more helpful one is better.",
    ),
}


def make_app(store: Store, hosts: list[str]) -> FastAPI:
    """The pages over one store; requests under other host names, and posts from other sites, are refused."""
    app = FastAPI(title="rlhf annotate", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    pages = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)

    def page(name: str, **content: Any) -> HTMLResponse:
        return HTMLResponse(pages.get_template(name).render(**content), headers=SECURITY)

    @app.get("/")
    def welcome() -> HTMLResponse:
        return page("welcome.html", counts=store.counts(), kappa=store.kappa())

    @app.get("/pair")
    def pair(annotator: str, key: str | None = None) -> HTMLResponse:
        name = _checked(annotator)
        done, total = store.progress(name)
        shown = _known(store, key, name) if key else store.next(name)
        if shown is None:
            return page(
                "done.html",
                annotator=name,
                done=done,
                total=total,
                counts=store.counts(),
                kappa=store.kappa(),
            )
        question, advice = GUIDELINES.get(shown.pair.kind, GUIDELINES["helpful"])
        return page(
            "pair.html",
            annotator=name,
            shown=shown,
            question=question,
            advice=advice,
            done=done,
            total=total,
            now=time.time(),
        )

    @app.post("/vote")
    async def vote(request: Request) -> Response:
        form = await _form(request)
        name = _checked(form.get("annotator", ""))
        shown = _known(store, form.get("pair", ""), name)
        sides: dict[str, Choice] = {
            "left": shown.left,
            "right": "second" if shown.left == "first" else "first",
            "tie": "tie",
            "skip": "skip",
        }
        choice = sides.get(form.get("choice", ""))
        if choice is None:
            raise HTTPException(422, "choice must be left, right, tie or skip")
        store.vote(shown.pair.key, name, choice, _seconds(form.get("shown_at", "")))
        return RedirectResponse(f"/pair?annotator={quote(name)}", 303)

    @app.post("/undo")
    async def undo(request: Request) -> Response:
        name = _checked((await _form(request)).get("annotator", ""))
        key = store.undo(name)
        return RedirectResponse(
            f"/pair?annotator={quote(name)}" + (f"&key={key}" if key else ""), 303
        )

    @app.get("/{name}.css")
    def style(name: str) -> Response:
        return _file(f"{name}.css", "text/css")

    @app.get("/{name}.js")
    def script(name: str) -> Response:
        return _file(f"{name}.js", "text/javascript")

    return app


def _file(name: str, kind: str) -> Response:
    if name not in ("annotate.css", "annotate.js"):
        raise HTTPException(404)
    return Response((HERE / name).read_text(encoding="utf-8"), media_type=kind, headers=SECURITY)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form posted by our own page."""
    origin = request.headers.get("origin")
    if origin is not None and origin.split("://")[-1] != request.headers.get("host"):
        raise HTTPException(403, "posted from another site")
    body = (await request.body())[:10_000].decode(errors="replace")
    return {key: values[0] for key, values in parse_qs(body).items()}


def _checked(name: str) -> str:
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise HTTPException(422, "a name has 1 to 40 letters, digits, spaces, dots or dashes")
    return name


def _known(store: Store, key: str, annotator: str) -> Any:
    try:
        return store.show(key, annotator)
    except KeyError:
        raise HTTPException(404, "no such pair") from None


def _seconds(shown_at: str) -> float:
    try:
        return min(LONGEST, max(0.0, time.time() - float(shown_at)))
    except ValueError:
        return 0.0
