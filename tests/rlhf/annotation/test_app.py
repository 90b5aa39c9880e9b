import pytest
from annotators import NASTY
from fastapi.testclient import TestClient

from rlhf.annotation.app import make_app
from rlhf.annotation.store import Store


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(make_app(store, ["127.0.0.1"]), base_url="http://127.0.0.1")


def test_a_vote_is_for_the_response_that_stood_on_that_side(
    client: TestClient, store: Store
) -> None:
    for side in ("left", "right", "tie"):
        shown = store.next("Ada")
        assert shown is not None
        form = {"annotator": "Ada", "pair": shown.pair.key, "choice": side, "shown_at": "0"}
        found = client.post("/vote", data=form, follow_redirects=False)
        assert (found.status_code, found.headers["location"]) == (303, "/pair?annotator=Ada")
        vote = store.votes()[-1]
        other = {"first": "second", "second": "first"}[shown.left]
        assert vote.preferred == {"left": shown.left, "right": other, "tie": "tie"}[side]
        assert (
            vote.pair == shown.pair.key and vote.shown_left == shown.left and vote.seconds == 3600.0
        )


def test_text_is_escaped_and_no_model_is_named(client: TestClient) -> None:
    page = client.get("/pair", params={"annotator": "Ada"})
    assert NASTY not in page.text and "&lt;script&gt;" in page.text
    assert "challenger" not in page.text and "baseline" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


def test_each_kind_has_its_guidelines(client: TestClient, store: Store) -> None:
    seen = set()
    while shown := store.next("Ada"):
        text = client.get("/pair", params={"annotator": "Ada"}).text
        assert ("less harm?" in text) == (shown.pair.kind == "harmless")
        seen.add(shown.pair.kind)
        store.vote(shown.pair.key, "Ada", "tie", 1.0)
    assert seen == {"helpful", "harmless"}
    assert "All 6 pairs are done" in client.get("/pair", params={"annotator": "Ada"}).text


def test_undo_shows_the_pair_again(client: TestClient, store: Store) -> None:
    shown = store.next("Ada")
    assert shown is not None
    store.vote(shown.pair.key, "Ada", "tie", 1.0)
    page = client.post("/undo", data={"annotator": "Ada"})
    assert shown.pair.key in page.text and store.votes() == []


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"choice": "both"}, 422),
        ({"pair": "unknown"}, 404),
        ({"annotator": "<script>"}, 422),
        ({"annotator": ""}, 422),
    ],
)
def test_what_no_page_of_ours_sends_is_refused(
    client: TestClient, store: Store, change: dict[str, str], code: int
) -> None:
    shown = store.next("Ada")
    assert shown is not None
    form = {"annotator": "Ada", "pair": shown.pair.key, "choice": "left", "shown_at": "x"} | change
    assert client.post("/vote", data=form).status_code == code
    assert store.votes() == []


def test_other_sites_and_other_names_of_this_host_are_refused(
    client: TestClient, store: Store
) -> None:
    shown = store.next("Ada")
    assert shown is not None
    form = {"annotator": "Ada", "pair": shown.pair.key, "choice": "left"}
    assert (
        client.post("/vote", data=form, headers={"Origin": "http://evil.example"}).status_code
        == 403
    )
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert (
        client.post(
            "/vote", data=form, headers={"Origin": "http://127.0.0.1"}, follow_redirects=False
        ).status_code
        == 303
    )
    assert client.get("/../store.css").status_code == 404
