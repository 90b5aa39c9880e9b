import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from annotators import make_workspace
from fastapi.testclient import TestClient

from rlhf.annotation.app import make_app
from rlhf.annotation.store import VoteStore
from rlhf.annotation.token import COOKIE, NO_ENTRY
from tests.waiting import wait_until

TOKEN = "a-b_c"


@pytest.fixture
def client(store: VoteStore) -> TestClient:
    return TestClient(make_app(store, ["*"], TOKEN), base_url="http://10.0.0.1")


@pytest.mark.parametrize(
    "path", ["/", "/pair?annotator=Ada", "/annotate.js", "/?token=", "/?token=ä"]
)
def test_nobody_gets_in_without_the_token(client: TestClient, path: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.text) == (403, NO_ENTRY)


def test_no_vote_is_taken_without_the_token(client: TestClient, store: VoteStore) -> None:
    displayed = store.next_pair("Ada")
    assert displayed is not None
    form = {"annotator": "Ada", "pair": displayed.pair.key, "choice": "left"}
    assert client.post("/vote", data=form).status_code == 403
    assert client.post("/vote", data=form, cookies={COOKIE: "guessed"}).status_code == 403
    assert store.votes() == []


def test_the_link_gives_a_cookie_and_leaves_the_address(
    client: TestClient, store: VoteStore
) -> None:
    link = client.get(f"/pair?annotator=Ada&token={TOKEN}", follow_redirects=False)
    assert (link.status_code, link.headers["location"]) == (303, "/pair?annotator=Ada")
    assert "HttpOnly" in link.headers["set-cookie"]
    assert "samesite=lax" in link.headers["set-cookie"].lower()

    # with the cookie all is as without a token
    displayed = store.next_pair("Ada")
    assert displayed is not None
    form = {"annotator": "Ada", "pair": displayed.pair.key, "choice": "left"}
    page = client.post("/vote", data=form)
    assert (page.status_code, len(store.votes())) == (200, 1)
    assert TOKEN not in page.text
    assert client.get("/?token=wrong").status_code == 403


def test_the_link_leads_to_no_other_host(client: TestClient) -> None:
    link = client.get(f"http://10.0.0.1//evil.example/?token={TOKEN}", follow_redirects=False)
    assert link.headers["location"] == "/evil.example/"


@pytest.fixture
def printed(tmp_path: Path) -> Iterator[str]:
    """What `rlhf annotate --host 0.0.0.0` prints first, while it serves."""
    root = make_workspace(tmp_path, 1).root
    command = [sys.executable, "-c", "from rlhf.commands.cli import main; main()", "-C", str(root)]
    server = subprocess.Popen(
        [*command, "annotate", "--host", "0.0.0.0", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"RLHF_ANNOTATE_TOKEN": "x/y"},
    )
    try:
        assert server.stdout is not None
        yield server.stdout.readline()
    finally:
        server.kill()
        server.wait()


def test_what_others_reach_is_behind_the_token_that_is_printed(printed: str) -> None:
    found = re.search(r":(\d+)(/\?token=x%2Fy) ", printed)
    assert found is not None, printed
    url = f"http://127.0.0.1:{found[1]}"
    with httpx.Client(trust_env=False, follow_redirects=True) as browser:
        statuses: list[int] = []

        def answers() -> bool:
            try:
                statuses.append(browser.get(url).status_code)
            except httpx.TransportError:
                return False
            return True

        wait_until(answers, "the page did not come")
        assert statuses == [403]
        assert "Your name" in browser.get(url + found[2]).text
