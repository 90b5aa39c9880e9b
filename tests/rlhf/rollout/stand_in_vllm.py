"""A server on loopback that speaks as vLLM 0.32 does, and draws with the sampler of this process.

What it draws from a seed is what `local` draws, so whole runs can be compared. Its answers have the
form of those that vLLM gave (vllm_answers.json).
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from tiny import PAD
from transformers import PreTrainedModel

from rlhf.models.saving import load_causal_lm
from rlhf.rollout.local import row_uniforms, sample
from rlhf.rollout.sampler import SamplingRule
from rlhf.settings.sampling import VllmSettings

GENERATE = "/inference/v1/generate"


class Handler(BaseHTTPRequestHandler):
    server: "StandIn"
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        if path == "/collective_rpc" and self.server.at_reload is not None:
            meanwhile, self.server.at_reload = self.server.at_reload, None
            meanwhile()
        with self.server.lock:
            status, answer = self.server.answer(path, json.loads(body) if body else None)
        data = b"" if answer is None else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


class StandIn(ThreadingHTTPServer):
    """faults: statuses that the next requests for a path are answered with
    keeps_label, keeps_weights: it answers as if it took new ones, and keeps the old
    at_reload: what another client does meanwhile, just before the next weights are read
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.model: PreTrainedModel | None = None
        self.version = "default"
        self.logprobs_mode = "processed_logprobs"
        self.faults: dict[str, list[int]] = {}
        self.keeps_label = self.keeps_weights = False
        self.at_reload: Callable[[], None] | None = None
        self.asked: Counter[str] = Counter()
        self.requests: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def settings(self, **changes: Any) -> VllmSettings:
        return VllmSettings.model_validate({"address": self.address, "concurrency": 4, **changes})

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        self.asked[path] += 1
        if self.faults.get(path):
            return self.faults[path].pop(0), {"error": {"message": "as the test wants it"}}
        if path == "/server_info":
            config = {"model_config": {"logprobs_mode": self.logprobs_mode}}
            return 200, {"vllm_config": config}
        if path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            if not self.keeps_weights:
                self.model = load_causal_lm(Path(body["kwargs"]["weights_path"]))
            return 200, {"results": [None]}
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        if path == "/update_weight_version":
            self.version = self.version if self.keeps_label else body["new_version"]
            return 200, {"success": True, "new_version": body["new_version"]}
        if path == GENERATE:
            self.requests.append(body)
            return 200, self.generated(body)
        return (200, None) if path == "/health" else (404, {"detail": "Not Found"})

    def generated(self, body: dict[str, Any]) -> dict[str, Any]:
        asked, prompt = body["sampling_params"], body["token_ids"]
        assert self.model is not None
        first, *others = asked["stop_token_ids"] or [-1]
        rule = SamplingRule(
            max_new_tokens=asked["max_tokens"],
            eos_id=first,
            pad_id=PAD,
            temperature=asked["temperature"] or 1.0,
            greedy=asked["temperature"] == 0,
            other_ends=tuple(others),
        )
        uniforms = row_uniforms(asked["max_tokens"], asked["seed"])[None]
        drawn = sample(self.model, [prompt], uniforms, rule)
        (tokens,), (logprobs,) = drawn.responses, drawn.logprobs
        content = [
            {"token_id": token, "logprob": logprob, "rank": 1, "top_logprobs": []}
            for token, logprob in zip(tokens, logprobs, strict=True)
        ]
        choice = {
            "index": 0,
            "finish_reason": "stop" if tokens[-1] in rule.ends else "length",
            "stop_reason": tokens[-1] if tokens[-1] in rule.ends else None,
            "token_ids": tokens,
            "weight_versions": [{"version": self.version, "start": 0, "end": len(tokens)}],
            "logprobs": {"content": content},
        }
        return {"request_id": "generate-tokens-1", "choices": [choice]}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hung up is no fault of ours."""


@contextmanager
def serving() -> Iterator[StandIn]:
    """A stand-in that answers in the background; torch's threads in it are as many as in the tests."""
    torch.set_num_threads(1)
    server = StandIn()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
