"""The pages in real headless Chromium: keys, touches, and a server that is killed in between."""

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Callable
from functools import partial

import httpx
import pytest
from annotators import AnnotateServer

from rlhf.annotation.store import VoteStore
from rlhf.workspace import Workspace
from tests.waiting import SECONDS, wait_until

playwright = pytest.importorskip("playwright.sync_api")
NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

# milliseconds
PATIENCE = 1000 * SECONDS
PAIRS = 100
# numbers of votes, of both annotators together, at which the server is killed
KILLED_AT = (60, 130)


def annotate(server: AnnotateServer, name: str, phone: bool, page_errors: list[str]) -> None:
    """Vote on every pair; load the page again whenever the server is gone."""
    random_keys = random.Random(name)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        context = browser.new_context(**(play.devices["Pixel 7"] if phone else {}))
        page = context.new_page()
        page.on("pageerror", lambda error: page_errors.append(str(error)))
        # what comes below goes on with the page that it has, and may give up sooner
        page.goto(server.url, timeout=PATIENCE)
        page.fill("input[name=annotator]", name, timeout=PATIENCE)
        page.click("text=Begin", timeout=PATIENCE)
        deadline = time.monotonic() + 2 * SECONDS
        while True:
            assert time.monotonic() < deadline, f"{name} did not come to an end"
            url = page.url
            try:
                if page.locator("text=are done").count():
                    break
                key = random_keys.choice(["ArrowLeft", "ArrowRight", "t"])
                button = page.locator(f'button[data-key="{key}"]')
                with page.expect_navigation(timeout=5000):
                    button.tap() if phone else page.keyboard.press(key)
            except playwright.Error:
                page.wait_for_timeout(200)
                # still gone: the next turn tries again
                with contextlib.suppress(playwright.Error):
                    pair_url = f"{server.url}/pair?annotator={name}"
                    page.goto(url if "/pair" in url else pair_url, timeout=5000)
        if phone:
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= page.viewport_size["width"]
        browser.close()


def votes_of(store: VoteStore) -> list[tuple[str, str, str]]:
    return [(vote.annotator, vote.pair, vote.preferred) for vote in store.votes()]


def has_votes(store: VoteStore, count: int, annotators: list[threading.Thread]) -> bool:
    assert any(annotator.is_alive() for annotator in annotators)
    return len(store.votes()) >= count


@pytest.mark.long
def test_two_hundred_votes_by_two_annotators_survive_a_server_that_is_killed(
    start_server: Callable[[int], AnnotateServer],
) -> None:
    server = start_server(PAIRS)
    page_errors: list[str] = []
    annotators = [
        threading.Thread(target=annotate, args=(server, name, phone, page_errors), daemon=True)
        for name, phone in (("Ada", False), ("Bob", True))
    ]
    for annotator in annotators:
        annotator.start()

    store = VoteStore(Workspace(server.root).votes, 1)
    for kill_at in KILLED_AT:
        wait_until(partial(has_votes, store, kill_at, annotators), f"no {kill_at} votes")
        server.kill()
        before = votes_of(store)
        server.start()
        assert votes_of(store)[: len(before)] == before
    for annotator in annotators:
        annotator.join(3 * SECONDS)

    votes = store.votes()
    assert len(votes) == 2 * PAIRS
    assert len({(vote.annotator, vote.pair) for vote in votes}) == 2 * PAIRS
    assert {vote.preferred for vote in votes} == {"first", "second", "tie"}
    assert not page_errors
    assert "stolen" not in httpx.get(server.url, trust_env=False).text


def test_keys_skip_and_undo(start_server: Callable[[int], AnnotateServer]) -> None:
    server = start_server(3)
    store = VoteStore(Workspace(server.root).votes, 1)
    with playwright.sync_playwright() as play:
        page = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"]).new_page()
        page.goto(f"{server.url}/pair?annotator=Ada")
        pair = page.locator("input[name=pair]")

        first = pair.get_attribute("value")
        with page.expect_navigation():
            page.keyboard.press("s")
        second = pair.get_attribute("value")
        assert first != second and store.votes() == []

        with page.expect_navigation():
            page.keyboard.press("ArrowLeft")
        assert [vote.pair for vote in store.votes()] == [second]

        with page.expect_navigation():
            page.keyboard.press("u")
        assert pair.get_attribute("value") == second
        assert store.votes() == []
        # no script in the text of a dialogue was run
        assert page.title() == "Compare answers"
