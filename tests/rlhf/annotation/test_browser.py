"""The page in real headless Chromium: two annotators at once, keys and touches, a server that is killed in between."""

import contextlib
import random
import shutil
import threading
import time
from collections.abc import Callable

import httpx
import pytest
from annotators import Served

from rlhf.annotation.store import Store
from rlhf.workspace import Workspace

playwright = pytest.importorskip("playwright.sync_api")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")

PAIRS, KILLED_AT = 100, (60, 130)


def annotate(served: Served, name: str, phone: bool, faults: list[str]) -> None:
    """Vote on everything, patiently loading the page again whenever the server is gone."""
    random_keys = random.Random(name)
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        context = browser.new_context(**(play.devices["Pixel 7"] if phone else {}))
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.goto(served.url)
        page.fill("input[name=annotator]", name)
        page.click("text=Begin")
        while True:
            before = page.url
            try:
                if page.locator("text=are done").count():
                    break
                key = random_keys.choice(["ArrowLeft", "ArrowRight", "t"])
                button = page.locator(f'button[data-key="{key}"]')
                with page.expect_navigation(timeout=5000):
                    button.tap() if phone else page.keyboard.press(key)
            except playwright.Error:
                page.wait_for_timeout(200)
                with contextlib.suppress(playwright.Error):  # still gone: the next turn tries again
                    page.goto(
                        before if "/pair" in before else f"{served.url}/pair?annotator={name}",
                        timeout=5000,
                    )
        if phone:
            width = page.evaluate("document.documentElement.scrollWidth")
            assert width <= page.viewport_size["width"]
        browser.close()


def test_two_hundred_votes_by_two_annotators_survive_a_server_that_is_killed(
    serve: Callable[[int], Served],
) -> None:
    served, faults = serve(PAIRS), list[str]()
    people = [
        threading.Thread(target=annotate, args=(served, name, phone, faults))
        for name, phone in (("Ada", False), ("Bob", True))
    ]
    for person in people:
        person.start()
    store = Store(Workspace(served.root).votes, 1)
    for kill_at in KILLED_AT:
        while len(store.votes()) < kill_at:
            assert any(person.is_alive() for person in people)
            time.sleep(0.1)
        served.kill()
        held = [(vote.annotator, vote.pair, vote.preferred) for vote in store.votes()]
        served.start()
        assert [(vote.annotator, vote.pair, vote.preferred) for vote in store.votes()][
            : len(held)
        ] == held
    for person in people:
        person.join()
    votes = store.votes()
    assert (
        len(votes) == 2 * PAIRS
        and len({(vote.annotator, vote.pair) for vote in votes}) == 2 * PAIRS
    )
    assert {vote.preferred for vote in votes} == {"first", "second", "tie"}
    assert not faults, faults
    assert "stolen" not in httpx.get(served.url, trust_env=False).text


def test_keys_skip_and_undo(serve: Callable[[int], Served]) -> None:
    served = serve(3)
    store = Store(Workspace(served.root).votes, 1)
    with playwright.sync_playwright() as play:
        page = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"]).new_page()
        page.goto(f"{served.url}/pair?annotator=Ada")
        first = page.locator("input[name=pair]").get_attribute("value")
        with page.expect_navigation():
            page.keyboard.press("s")
        second = page.locator("input[name=pair]").get_attribute("value")
        assert first != second and store.votes() == []
        with page.expect_navigation():
            page.keyboard.press("ArrowLeft")
        assert [vote.pair for vote in store.votes()] == [second]
        with page.expect_navigation():
            page.keyboard.press("u")
        assert (
            page.locator("input[name=pair]").get_attribute("value") == second
            and store.votes() == []
        )
        assert page.title() == "Compare answers"  # no text of a dialogue was run
