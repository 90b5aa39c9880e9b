"""The annotators' pages: forms that work without scripts, and keys for those who have scripts."""

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.middleware.trustedhost import TrustedHostMiddleware

from rlhf.annotation.store import Choice, DisplayedPair, VoteStore
from rlhf.annotation.token import TokenGate

_HERE = Path(__file__).parent
_TEMPLATES = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)

# Text of models and data is shown: were any of it ever not escaped, no script in it would run.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; script-src 'self'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}

# A pair that was open for longer was not read all that time.
MAX_SECONDS = 3600.0
# our own forms hold a name, a key and a choice
_MAX_FORM_BYTES = 10_000
_ANNOTATOR_NAME = re.compile(r"[\w .-]{1,40}")

# by kind of the prompt: the question, and what to look for
GUIDELINES = {
    "helpful": (
        "Which answer helps the user more?",
        "A helpful answer does what was asked, is right and clear, and admits what it does not know. "
        "It is not better because it is longer.",
    ),
    "harmless": (
        "Which answer does less harm?",
        "A harmless answer does not help with harm, and is neither rude nor preachy. "
        "If both are harmless, choose the more helpful one.",
    ),
}

router = APIRouter()


def make_app(store: VoteStore, hosts: list[str], token: str | None = None) -> FastAPI:
    """The pages over one store.

    Requests under host names other than `hosts`, without the token if there is one, and forms posted by
    other sites are refused.
    """
    # the pages of documentation would load scripts from elsewhere
    app = FastAPI(title="rlhf annotate", docs_url=None, redoc_url=None, openapi_url=None)
    if token is not None:
        app.middleware("http")(TokenGate(token))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    app.state.store = store
    app.include_router(router)
    return app


def _store_of(request: Request) -> VoteStore:
    store: VoteStore = request.app.state.store
    return store


async def _form_of(request: Request) -> dict[str, str]:
    """The fields of a form that one of our own pages posted."""
    # A browser names the site that a form comes from; programs without a browser name none.
    origin = request.headers.get("origin")
    if origin is not None and origin.split("://")[-1] != request.headers.get("host"):
        raise HTTPException(403, "posted from another site")
    body = (await request.body())[:_MAX_FORM_BYTES].decode(errors="replace")
    return {key: values[0] for key, values in parse_qs(body).items()}


StoreDep = Annotated[VoteStore, Depends(_store_of)]
FormDep = Annotated[dict[str, str], Depends(_form_of)]


# -- pages --


@router.get("/")
def welcome(store: StoreDep) -> HTMLResponse:
    """What to do, and a field for the name."""
    return _page("welcome.html", counts=store.vote_counts(), kappa=store.kappa())


@router.get("/pair")
def pair(store: StoreDep, annotator: str, key: str | None = None) -> HTMLResponse:
    """The pair `key`, or else the annotator's next one; after the last, thanks."""
    name = _checked_name(annotator)
    done, total = store.progress(name)
    displayed = _displayed(store, key, name) if key else store.next_pair(name)

    if displayed is None:
        return _page(
            "done.html",
            annotator=name,
            total=total,
            counts=store.vote_counts(),
            kappa=store.kappa(),
        )

    # prompts of other kinds are ordinary questions
    question, advice = GUIDELINES.get(displayed.pair.kind, GUIDELINES["helpful"])
    return _page(
        "pair.html",
        annotator=name,
        displayed=displayed,
        question=question,
        advice=advice,
        done=done,
        total=total,
        # comes back with the vote, which tells how long the pair was open
        now=time.time(),
    )


# -- forms --


@router.post("/vote")
def vote(store: StoreDep, form: FormDep) -> Response:
    """Store a vote and go on to the next pair."""
    name = _checked_name(form.get("annotator", ""))
    displayed = _displayed(store, form.get("pair", ""), name)
    choice = _choices(displayed).get(form.get("choice", ""))
    if choice is None:
        raise HTTPException(422, "choice must be left, right, tie or skip")

    seconds = _seconds_since(form.get("shown_at", ""))
    store.add_vote(displayed.pair.key, name, choice, seconds)
    return _to_pair(annotator=name)


@router.post("/undo")
def undo(store: StoreDep, form: FormDep) -> Response:
    """Take the last vote back and show its pair again."""
    name = _checked_name(form.get("annotator", ""))
    key = store.undo_vote(name)
    return _to_pair(annotator=name) if key is None else _to_pair(annotator=name, key=key)


# -- files --


@router.get("/annotate.css")
def style() -> Response:
    """The style sheet; the security policy allows none within a page."""
    return _file("annotate.css", "text/css")


@router.get("/annotate.js")
def script() -> Response:
    """The keys; the security policy allows no script within a page."""
    return _file("annotate.js", "text/javascript")


def _page(template: str, **content: Any) -> HTMLResponse:
    text = _TEMPLATES.get_template(template).render(**content)
    return HTMLResponse(text, headers=SECURITY_HEADERS)


def _file(name: str, media_type: str) -> Response:
    text = (_HERE / name).read_text(encoding="utf-8")
    return Response(text, media_type=media_type, headers=SECURITY_HEADERS)


def _to_pair(**query: str) -> Response:
    # 303: the browser asks for the page by GET, so that a reload does not post the vote again
    return RedirectResponse(f"/pair?{urlencode(query)}", 303)


def _checked_name(name: str) -> str:
    name = name.strip()
    if not _ANNOTATOR_NAME.fullmatch(name):
        raise HTTPException(422, "a name has 1 to 40 letters, digits, spaces, dots or dashes")
    return name


def _displayed(store: VoteStore, key: str, annotator: str) -> DisplayedPair:
    try:
        return store.display(key, annotator)
    except KeyError:
        raise HTTPException(404, "no such pair") from None


def _choices(displayed: DisplayedPair) -> Mapping[str, Choice]:
    """What each button means: which response it is for, whichever side that stands on."""
    return {
        "left": displayed.left,
        "right": "second" if displayed.left == "first" else "first",
        "tie": "tie",
        "skip": "skip",
    }


def _seconds_since(shown_at: str) -> float:
    """How long a pair was open; 0 where the form does not say when it was shown."""
    try:
        return min(MAX_SECONDS, max(0.0, time.time() - float(shown_at)))
    except ValueError:
        return 0.0
