"""An OpenAI-compatible server on loopback that judges by a rule and fails on command, as real ones do."""

import json
import math
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from rlhf.evaluation.both_orders import judge_both_orders
from rlhf.evaluation.judges.api import ApiJudge
from rlhf.evaluation.types import Case, Judgement
from rlhf.settings.endpoints import Endpoint

FAULTS = (
    *("429", "500", "timeout", "cut", "not json", "a page", "error inside", "no choices"),
    *("nonsense", "cut thoughts", "two verdicts"),
)
# what stands around a verdict
FORM = "{}"
# seconds: what no answer takes on a busy machine, and what is longer than the client's patience
PATIENCE = 10.0
HELD_UP = 11.0
# more of them would only take time
HELD_UP_TIMES = 8


def endpoint(url: str, **changes: Any) -> Endpoint:
    content = {
        "base_url": url,
        "model": "scripted",
        "key_variable": "SCRIPTED_KEY",
        "concurrency": 16,
        "timeout_seconds": PATIENCE,
        "price": {"input": 2.0, "output": 8.0},
    }
    return Endpoint.model_validate(content | changes)


def fenced(messages: list[dict[str, str]]) -> dict[str, str]:
    """What stands between the marks that carry the code of the question."""
    code = re.search(r"that carry the code ([0-9a-f]{12})\.", messages[0]["content"])
    assert code is not None
    mark = rf"<<(ANSWER [AB]|DIALOGUE) {code[1]}>>\n(.*?)\n<<END OF \1 {code[1]}>>"
    return {name: text for name, text in re.findall(mark, messages[1]["content"], re.DOTALL)}


def verdict(messages: list[dict[str, str]]) -> str:
    """The answer with the larger number after "quality" is the better one."""
    texts = fenced(messages)
    first, second = (int(re.search(r"quality (\d+)", texts[f"ANSWER {side}"])[1]) for side in "AB")  # type: ignore[index]
    return "tie" if first == second else "A" if first > second else "B"


def fewer_words(messages: list[dict[str, str]]) -> str:
    """The answer with fewer words is the better one."""
    texts = fenced(messages)
    first, second = (len(texts[f"ANSWER {side}"].split()) for side in "AB")
    return "tie" if first == second else "A" if first < second else "B"


class Script:
    """Which requests fail, how the others are judged, and what was asked and answered."""

    def __init__(
        self,
        fault_rate: float = 0.0,
        faults: tuple[str, ...] = FAULTS,
        seed: int = 0,
        rule: Callable[[list[dict[str, str]]], str] | None = None,
    ) -> None:
        self.fault_rate, self.faults = fault_rate, faults
        # None: `verdict`, as it is when it is asked
        self.rule = rule
        self.random = random.Random(seed)
        self.lock = threading.Lock()
        self.requests = 0
        self.answered: Counter[str] = (
            Counter()
        )  # readable verdicts by question: what a user pays for
        self.failed: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.bodies: list[dict[str, Any]] = []
        self.finish_reason = "stop"
        # once so many questions are answered, the next ones wait until the test goes on
        self.hold_at = math.inf
        self.going_on = threading.Event()

    def wait_for_turn(self) -> None:
        if len(self.answered) >= self.hold_at:
            self.going_on.wait(600)

    def fault(self) -> str | None:
        with self.lock:
            self.requests += 1
            # in turn, so that a short run meets each kind
            turn = self.failed.total() % len(self.faults)
            fault = self.faults[turn] if self.random.random() < self.fault_rate else None
            if fault == "timeout" and self.failed[fault] == HELD_UP_TIMES:
                fault = "500"
            if fault:
                self.failed[fault] += 1
            return fault


class Handler(BaseHTTPRequestHandler):
    server: "Server"
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        script = self.server.script
        script.wait_for_turn()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        script.keys.add(self.headers["Authorization"])
        script.bodies.append(body)
        fault = script.fault()
        if fault == "429":
            return self.send(429, {"error": {"message": "slow down"}}, {"retry-after-ms": "20"})
        if fault == "500":
            return self.send(500, {"error": {"message": "broken"}}, {"retry-after-ms": "20"})
        if fault == "timeout":
            time.sleep(HELD_UP)
            self.close_connection = True
            return None
        if fault == "filtered":
            return self.send(400, {"error": {"message": "not this", "code": "content_filter"}})
        if fault == "no credit":
            return self.send(
                400, {"error": {"message": f"no credit for {self.headers['Authorization']}"}}
            )
        rule = script.rule or verdict
        content = FORM.format(json.dumps({"reason": "the rule", "verdict": rule(body["messages"])}))
        if fault == "nonsense":
            content = "?!"
        elif fault == "cut thoughts":
            content = "<think>\n\x1b[31mPerhaps " + content + " or not" * 100
        elif fault == "two verdicts":
            content = '{"verdict": "A"} {"verdict": "B"}'
        elif fault is None:
            with script.lock:
                script.answered[json.dumps(body["messages"][:2])] += 1
        reply = {
            "id": "1", "object": "chat.completion", "created": 0, "model": body["model"],
            "choices": [
                {
                    "index": 0, "finish_reason": script.finish_reason,
                    "message": {"role": "assistant", "content": content},
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110},
        }  # fmt: skip
        if fault == "no choices":
            reply["choices"] = []
        if fault == "cut":
            return self.send(200, reply, cut=True)
        if fault == "not json":
            return self.send(200, "<html>gateway</html>")
        if fault == "a page":
            return self.send(200, "<html>gateway</html>", {"Content-Type": "text/html"})
        if fault == "error inside":
            return self.send(200, {"error": {"message": "upstream limit"}})
        return self.send(200, reply)

    def send(
        self, code: int, content: Any, headers: dict[str, str] | None = None, cut: bool = False
    ) -> None:
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(code)
        headers = {"Content-Type": "application/json"} | (headers or {})
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    def log_message(self, *_: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no fault of ours."""


@contextmanager
def scripted(script: Script) -> Iterator[str]:
    """Serve in the background; gives the base URL."""
    server = Server(script)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()


def case(number: int, first: str, second: str, kind: str = "helpful") -> Case:
    return Case(
        str(number),
        kind,
        ({"role": "user", "content": f"question {number}"},),
        first,
        second,
        (),
        (),
        (),
    )


def cases(count: int) -> list[Case]:
    qualities = random.Random(1)
    return [
        case(number, f"quality {qualities.randint(0, 3)}", f"quality {qualities.randint(0, 3)}")
        for number in range(count)
    ]


def expected(items: Sequence[Case]) -> list[str]:
    pairs = [(item.response_first[-1], item.response_second[-1]) for item in items]
    return [
        "win" if first > second else "lose" if first < second else "tie" for first, second in pairs
    ]


def judge_all(
    url: str, folder: Path, items: Sequence[Case], **changes: object
) -> tuple[ApiJudge, list[Judgement]]:
    judge = ApiJudge("scripted", endpoint(url, **changes), folder / "answers.db")
    return judge, judge_both_orders(judge, items)
