import pytest
from annotators import HOSTILE
from fastapi.testclient import TestClient

from rlhf.annotation.app import MAX_SECONDS, make_app
from rlhf.annotation.store import DisplayedPair, VoteStore

OTHER = {"first": "second", "second": "first"}


@pytest.fixture
def client(store: VoteStore) -> TestClient:
    return TestClient(make_app(store, ["127.0.0.1"]), base_url="http://127.0.0.1")


def next_pair(store: VoteStore) -> DisplayedPair:
    """Ada's next pair, which there must be."""
    displayed = store.next_pair("Ada")
    assert displayed is not None
    return displayed


@pytest.mark.parametrize("side", ["left", "right", "tie"])
def test_a_vote_is_for_the_response_that_stood_on_that_side(
    client: TestClient, store: VoteStore, side: str
) -> None:
    # of six pairs, some stand either way round
    for _ in range(6):
        displayed = next_pair(store)
        form = {"annotator": "Ada", "pair": displayed.pair.key, "choice": side, "shown_at": "0"}
        response = client.post("/vote", data=form, follow_redirects=False)
        assert response.status_code == 303
        assert response.headers["location"] == "/pair?annotator=Ada"

        vote = store.votes()[-1]
        expected = {"left": displayed.left, "right": OTHER[displayed.left], "tie": "tie"}
        assert vote.preferred == expected[side]
        assert vote.pair == displayed.pair.key
        assert vote.shown_left == displayed.left
        assert vote.seconds == MAX_SECONDS == 3600.0
    assert {vote.shown_left for vote in store.votes()} == {"first", "second"}


def test_text_is_escaped_and_no_model_is_named(client: TestClient) -> None:
    page = client.get("/pair", params={"annotator": "Ada"})
    assert HOSTILE not in page.text and "&lt;script&gt;" in page.text
    assert "challenger" not in page.text and "baseline" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")


def test_each_kind_has_its_guidelines(client: TestClient, store: VoteStore) -> None:
    kinds = set()
    while displayed := store.next_pair("Ada"):
        text = client.get("/pair", params={"annotator": "Ada"}).text
        assert ("less harm?" in text) == (displayed.pair.kind == "harmless")
        kinds.add(displayed.pair.kind)
        store.add_vote(displayed.pair.key, "Ada", "tie", 1.0)
    assert kinds == {"helpful", "harmless"}
    assert "All 6 pairs are done" in client.get("/pair", params={"annotator": "Ada"}).text


def test_undo_shows_the_pair_again(client: TestClient, store: VoteStore) -> None:
    displayed = next_pair(store)
    store.add_vote(displayed.pair.key, "Ada", "tie", 1.0)
    page = client.post("/undo", data={"annotator": "Ada"})
    assert displayed.pair.key in page.text
    assert store.votes() == []


def test_a_name_with_spaces_and_letters_of_any_script_is_carried_along(
    client: TestClient, store: VoteStore
) -> None:
    name = "Zoë B. Ж-9"
    displayed = store.next_pair(name)
    assert displayed is not None
    form = {"annotator": name, "pair": displayed.pair.key, "choice": "tie"}
    page = client.post("/vote", data=form)
    assert (page.status_code, page.request.method) == (200, "GET")
    assert f'value="{name}"' in page.text
    assert [vote.annotator for vote in store.votes()] == [name]


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
    client: TestClient, store: VoteStore, change: dict[str, str], code: int
) -> None:
    form = {"annotator": "Ada", "pair": next_pair(store).pair.key, "choice": "left"}
    form |= {"shown_at": "x"} | change
    assert client.post("/vote", data=form).status_code == code
    assert store.votes() == []


def test_other_sites_and_other_names_of_this_host_are_refused(
    client: TestClient, store: VoteStore
) -> None:
    form = {"annotator": "Ada", "pair": next_pair(store).pair.key, "choice": "left"}
    foreign = client.post("/vote", data=form, headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 403
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert store.votes() == []

    own = client.post(
        "/vote", data=form, headers={"Origin": "http://127.0.0.1"}, follow_redirects=False
    )
    assert own.status_code == 303


def test_only_the_two_files_of_the_pages_are_served(client: TestClient) -> None:
    assert client.get("/annotate.css").headers["content-type"].startswith("text/css")
    assert client.get("/annotate.js").headers["content-type"].startswith("text/javascript")
    for path in ("/../store.css", "/store.py", "/pair.html", "/other.css"):
        assert client.get(path).status_code == 404
