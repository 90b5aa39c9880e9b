"""`http:NAME`: a real service on loopback that fails on command; no score is lost or made up."""

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tiny import numbers, tiny_settings, tiny_tokenizer

from rlhf.common.errors import SettingsError, TrainingError
from rlhf.core.steps import read_steps
from rlhf.engine import make_engine
from rlhf.models.roles import Models
from rlhf.rewards.base import RewardContext
from rlhf.rewards.http import HttpReward
from rlhf.rewards.records import ResponseRecord
from rlhf.training import loop
from rlhf.workspace import Workspace

FAULTS = ("429", "500", "503", "cut", "page", "closed")


class Handler(BaseHTTPRequestHandler):
    """Scores a record by its words; a script says which requests fail, and how."""

    server: "Server"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        server = self.server
        records = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["records"]
        with server.lock:
            server.keys.add(self.headers["Authorization"])
            server.sizes.append(len(records))
            fault = server.fault()
            server.faults[fault] += 1
        if fault == "closed":
            self.close_connection = True
        elif fault == "slow":
            time.sleep(1.5)
            self.close_connection = True
        elif fault in ("429", "500", "503", "401"):
            # as some services do
            self.answer(int(fault), f"no, {self.headers['Authorization']}", retry_after="0.01")
        elif fault == "page":
            self.answer(200, "<html>gateway</html>")
        else:
            with server.lock:
                server.answered += [record["response"] for record in records]
            scores = [server.score(record) for record in records]
            body = json.dumps({"scores": scores}) if fault != "bare" else json.dumps(scores)
            self.answer(200, body, cut=fault == "cut")

    def answer(self, status: int, body: str, retry_after: str = "", cut: bool = False) -> None:
        data = body.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if retry_after:
            self.send_header("Retry-After", retry_after)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.keys: set[str | None] = set()
        self.sizes: list[int] = []
        self.faults = Counter[str]()
        self.answered: list[str] = []
        self.random = random.Random(3)
        # of so many requests in a hundred, one of the faults
        self.rate, self.kinds = 0, FAULTS
        self.score: Any = lambda record: float(len(record["response"].split()))

    def fault(self) -> str:
        if self.random.randrange(100) < self.rate:
            return self.random.choice(self.kinds)
        return "none"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/score"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no fault of ours."""


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as found:
        yield found


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlhf.rewards.http._PAUSE", 0.01)


def service(url: str, **changes: Any) -> dict[str, Any]:
    return {"mine": {"url": url, "batch": 3, "concurrency": 4, "retries": 8, **changes}}


def reward_of(url: str, **changes: Any) -> HttpReward:
    settings = tiny_settings(
        {"ppo.rewards": ["http:mine"], "ppo.reward_services": service(url, **changes)}
    )
    models = Models(make_engine(settings.engine), None)
    return HttpReward(RewardContext(settings, Workspace(), models, tiny_tokenizer()), "mine")


def records_of(count: int) -> list[ResponseRecord]:
    return [
        ResponseRecord(
            prompt=f"question {number}",
            messages=[{"role": "user", "content": f"question {number}"}],
            response=" ".join(["word"] * number),
            reference=str(number),
            kind="helpful",
            finished=True,
            length=number,
        )
        for number in range(count)
    ]


# -- asking -------------------------------------------------------------------------------------


def test_scores_come_back_in_order_and_in_batches(server: Server) -> None:
    assert reward_of(server.url).scores_of(records_of(10)) == [float(n) for n in range(10)]
    assert sorted(server.sizes) == [1, 3, 3, 3]
    assert server.keys == {None}


def test_all_that_a_record_has_is_sent(server: Server) -> None:
    seen: list[dict[str, Any]] = []
    server.score = lambda record: seen.append(record) or 1
    reward_of(server.url).scores_of(records_of(2))
    assert sorted(seen, key=lambda record: str(record["prompt"]))[1] == {
        "prompt": "question 1",
        "messages": [{"role": "user", "content": "question 1"}],
        "response": "word",
        "reference": "1",
        "kind": "helpful",
        "finished": True,
        "length": 1,
    }


def test_nothing_to_score_is_nothing_to_ask(server: Server) -> None:
    assert reward_of(server.url).scores_of([]) == []
    assert server.sizes == []


def test_null_is_what_a_service_cannot_tell(server: Server) -> None:
    server.score = lambda record: None if record["reference"] == "1" else 0.5
    assert reward_of(server.url).scores_of(records_of(3)) == [0.5, None, 0.5]


def test_a_bare_list_will_do(server: Server) -> None:
    server.rate, server.kinds = 100, ("bare",)
    assert reward_of(server.url).scores_of(records_of(4)) == [0.0, 1.0, 2.0, 3.0]


# -- faults that pass ---------------------------------------------------------------------------


def test_a_service_that_fails_now_and_then_loses_nothing(server: Server) -> None:
    server.rate = 40
    reward = reward_of(server.url, retries=30)
    for _ in range(3):
        assert reward.scores_of(records_of(40)) == [float(n) for n in range(40)]
    assert all(server.faults[fault] for fault in FAULTS)


def test_a_service_that_hangs_is_asked_again(server: Server) -> None:
    kinds = iter(["slow", "none"])
    server.fault = lambda: next(kinds)  # type: ignore[method-assign]
    assert reward_of(server.url, timeout_seconds=0.5).scores_of(records_of(2)) == [0.0, 1.0]
    assert server.faults == {"slow": 1, "none": 1}


# -- faults that stay ---------------------------------------------------------------------------


def test_after_all_tries_the_run_ends_and_says_so(server: Server) -> None:
    server.rate, server.kinds = 100, ("503",)
    with pytest.raises(TrainingError) as caught:
        reward_of(server.url, retries=2).scores_of(records_of(2))
    message = str(caught.value)
    assert f"reward http:mine: {server.url} gave no answer in 3 tries: status 503" in message
    assert "goes on from its last checkpoint" in message
    assert server.faults == {"503": 3}


def test_nobody_there_is_told(server: Server) -> None:
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(TrainingError, match="gave no answer in 2 tries: ConnectError"):
        reward_of(url, retries=1).scores_of(records_of(1))


def test_a_refusal_is_not_asked_again(server: Server) -> None:
    server.rate, server.kinds = 100, ("401",)
    with pytest.raises(TrainingError, match="says no: status 401"):
        reward_of(server.url).scores_of(records_of(2))
    assert server.faults == {"401": 1}


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0], "gave 1 scores for 2 records, the first of which is the response to 'question 0'"),
        ([1.0, "high"], "gave 'high' for the response to 'question 1'; expected a number"),
        (
            [float("nan"), 1.0],
            "gave nan for the response to 'question 0'; expected a finite number",
        ),
        # JSON has them, float32 does not
        ([1.0, 1e39], "gave 1e+39 for the response to 'question 1'; expected a finite number"),
        ([-(10**400), 1.0], "gave inf for the response to 'question 0'; expected a finite number"),
        ("high", "gave 'high'; expected a list of 2 numbers"),
    ],
)
def test_scores_that_are_none_name_the_record(
    server: Server, monkeypatch: pytest.MonkeyPatch, scores: object, message: str
) -> None:
    monkeypatch.setattr(HttpReward, "_post", lambda *_: {"scores": scores})
    with pytest.raises(TrainingError) as caught:
        reward_of(server.url).scores_of(records_of(2))
    assert f"reward http:mine: {message}" in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "keys"), [({"rewards": [1.0, 2.0]}, "rewards"), ({}, "nothing")]
)
def test_an_answer_without_scores_is_told_by_its_keys(
    server: Server, monkeypatch: pytest.MonkeyPatch, answer: object, keys: str
) -> None:
    monkeypatch.setattr(HttpReward, "_post", lambda *_: answer)
    with pytest.raises(TrainingError, match=f'no "scores" in the answer, which has {keys}; exp'):
        reward_of(server.url).scores_of(records_of(2))


# -- address and key ----------------------------------------------------------------------------


# a long one is not shown up to where an answer is shortened
@pytest.mark.parametrize("key", ["s3cret", 30 * "s3cret"])
def test_the_key_is_sent_and_never_shown(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: str
) -> None:
    monkeypatch.setenv("MY_KEY", key)
    server.rate, server.kinds = 100, ("500",)
    with pytest.raises(TrainingError) as caught:
        reward_of(server.url, key_variable="MY_KEY", retries=1).scores_of(records_of(1))
    assert server.keys == {f"Bearer {key}"}
    assert "no, Bearer ***" in str(caught.value)
    assert "s3cret" not in str(caught.value) + caplog.text and "***" in caplog.text


def test_the_address_may_come_from_the_environment(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_SERVICE", server.url)
    assert reward_of("${MY_SERVICE}").scores_of(records_of(2)) == [0.0, 1.0]
    monkeypatch.delenv("MY_SERVICE")
    with pytest.raises(SettingsError, match="the environment variable MY_SERVICE is not set"):
        reward_of("${MY_SERVICE}")


def test_a_proxy_is_not_asked_for_this_machine(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert reward_of(server.url).scores_of(records_of(2)) == [0.0, 1.0]


def test_it_is_this_machine_unless_told_otherwise() -> None:
    settings = tiny_settings({"ppo.rewards": ["http:a"], "ppo.reward_services": {"a": {}}})
    assert settings.ppo.reward_services["a"].url == "http://127.0.0.1:8000/score"


@pytest.mark.parametrize(
    ("variables", "changes", "message"),
    [
        ({}, {"key_variable": "MY_KEY"}, "key_variable: MY_KEY is not set"),
        (
            {"MY_KEY": "k"},
            {"url": "http://rewards.example/score", "key_variable": "MY_KEY"},
            "a key is sent over https, or to this machine, alone",
        ),
        ({"URL": "nowhere"}, {"url": "${URL}"}, "must come to http://HOST"),
        ({"ALL_PROXY": "socks9://x:1"}, {"url": "https://rewards.example/score"}, "the proxy"),
    ],
)
def test_what_the_environment_lacks_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=message):
        reward_of(**{"url": "http://127.0.0.1:8000/", **changes})


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ({}, "rewards: http:mine: no such service; reward_services has none"),
        ({"other": {}}, "rewards: http:mine: no such service; reward_services has other"),
        ({"mine": {"url": "ftp://x"}}, "url: must begin with http://"),
        ({"mine": {"url": "https://me:s3cret@x/"}}, "url: without user, password"),
        ({"mine": {"url": "https://x/?token=s3cret"}}, "url: without user, password"),
        ({"mine": {"key_variable": "s3cret"}}, "must be the name of an environment variable"),
        ({"mine": {"retries": "s3cret"}}, "ppo.reward_services.mine.retries: must be a valid"),
        ({"mine": {"adress": "s3cret"}}, "ppo.reward_services.mine.adress: unknown key"),
    ],
)
def test_settings_that_cannot_work_are_refused_and_repeat_no_secret(
    services: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        tiny_settings({"ppo.rewards": ["http:mine"], "ppo.reward_services": services})
    assert message in str(caught.value) and "s3cret" not in str(caught.value)


# -- a run --------------------------------------------------------------------------------------


def test_a_run_is_paid_by_a_service_that_fails_now_and_then(
    server: Server, workspace: Workspace
) -> None:
    server.rate = 30
    changes = {
        "ppo.rewards": ["http:mine"],
        "ppo.reward_services": service(server.url, retries=30),
        "ppo.iterations": 1,
    }
    loop.train(tiny_settings(changes), workspace)
    row, *_, last = numbers(workspace.steps("ppo"))
    assert row["reward_http_mine_failures"] == 0.0
    samples = read_steps(workspace.samples("ppo"))
    said = [one["response"] for one in samples if one["step"] == last["step"]]
    words = sum(len(text.split()) for text in said) / len(said)
    assert last["validation_reward"] == pytest.approx(words)
