"""MLflow's own calls load the chain's models, without this project, and they do what ours do."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from rlhf.batches.padding import Ids
from rlhf.models.heads import load_scalar_model
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.models.scoring import ResponseScorer
from rlhf.rollout.local import decode, row_uniforms
from rlhf.rollout.sampler import SamplingRule
from rlhf.workspace import Workspace
from tasks.tracking import client_of, tracking_uri
from tests.flows.records import EXPERIMENT
from tests.project_copy import Project
from tests.readme_examples import python_blocks
from tests.waiting import SECONDS, wait_until

PROMPTS = ["How do I keep bread fresh?", "Hi", "Tell me of the sea,\nand of ships. \U0001f6a2"]
RESPONSES = ["In a bag.", "", "Wide <|im_end|> and blue\u2026"]
NEW_TOKENS = 12
# the Python of an environment that has mlflow, torch and transformers alone, where one was made
FRESH_PYTHON = "RLHF_FRESH_PYTHON"
LOAD = f"""
import json, sys
# as where this project is not installed
sys.modules["rlhf"] = sys.modules["tasks"] = None
import mlflow, pandas
prompts, responses = json.load(sys.stdin)
found = {{}}
frame = pandas.DataFrame({{"prompt": prompts}})
for name in ("base", "sft", "policy"):
    chat = mlflow.transformers.load_model(f"models:/{EXPERIMENT}-{{name}}/1")
    dialogues = [[{{"role": "user", "content": prompt}}] for prompt in prompts]
    answers = chat(dialogues, max_new_tokens={NEW_TOKENS}, do_sample=False, return_full_text=False)
    found[f"{{name}} pipeline"] = [answer[0]["generated_text"].strip() for answer in answers]
    model = mlflow.pyfunc.load_model(f"models:/{EXPERIMENT}-{{name}}/1")
    greedy = {{"temperature": 0.0, "repetition_penalty": 1.0, "max_new_tokens": {NEW_TOKENS}}}
    found[name] = model.predict(frame, params=greedy)
    sampled = {{"temperature": 1.0, "max_new_tokens": {NEW_TOKENS}}}
    seeds = [model.predict(frame, params=sampled | {{"seed": seed}}) for seed in (1, 1, 2)]
    found[f"{{name}} sampled"] = seeds
frame["response"] = responses
for name in ("reward", "gold"):
    found[name] = mlflow.pyfunc.load_model(f"models:/{EXPERIMENT}-{{name}}@current").predict(frame)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def loaded(chain: Project, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the registered models give, in a process that cannot import this project."""
    done = subprocess.run(
        [os.environ.get(FRESH_PYTHON, sys.executable), "-P", "-c", LOAD],
        input=json.dumps([PROMPTS, RESPONSES]),
        env={
            "PATH": "/usr/bin:/bin",
            "MLFLOW_TRACKING_URI": tracking_uri(chain.root),
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "OMP_NUM_THREADS": "1",
        },
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    chat = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("name", ["base", "sft", "policy"])
def test_a_language_model_answers_what_it_answers_here(
    chain: Project, loaded: dict[str, Any], name: str
) -> None:
    directory = Workspace(chain.root).model(name)
    model, tokenizer = load_causal_lm(directory), load_tokenizer(directory)
    assert isinstance(tokenizer.eos_token_id, int)
    assert isinstance(tokenizer.pad_token_id, int)
    rule = SamplingRule(NEW_TOKENS, tokenizer.eos_token_id, tokenizer.pad_token_id, greedy=True)
    answers = []
    for prompt in PROMPTS:
        ids = prompt_ids(tokenizer, prompt)
        drawn = decode(model, [ids], row_uniforms(NEW_TOKENS, 0)[None], rule)
        tokens = [int(step.tokens) for step in drawn]
        answers.append(str(tokenizer.decode(tokens, skip_special_tokens=True)).strip())
    assert loaded[name] == loaded[f"{name} pipeline"] == answers
    first, again, other = loaded[f"{name} sampled"]
    assert first == again != other


@pytest.mark.parametrize("name", ["reward", "gold"])
def test_a_reward_model_scores_as_it_scores_here(
    chain: Project, loaded: dict[str, Any], name: str
) -> None:
    directory = Workspace(chain.root).model(name)
    tokenizer = load_tokenizer(directory)
    scorer = ResponseScorer(load_scalar_model(directory).eval(), torch.device("cpu"))
    prompts: Sequence[Ids] = [prompt_ids(tokenizer, prompt) for prompt in PROMPTS]
    # an answer ends with its end-of-turn token
    responses = [
        tokenizer(f"{text}{tokenizer.eos_token}", add_special_tokens=False)["input_ids"]
        for text in RESPONSES
    ]
    assert loaded[name] == pytest.approx(scorer.scores(prompts, responses), abs=1e-5)


def test_the_readmes_example_loads_and_serves(chain: Project, tmp_path: Path) -> None:
    """The block of tasks/README.md, with this database and experiment in place of the reader's."""
    (example,) = python_blocks("tasks/README.md")
    example = example.replace("sqlite:////path/to/clone/mlflow.db", tracking_uri(chain.root))
    example = example.replace("models:/rlhf-", f"models:/{EXPERIMENT}-")
    assert example.count(EXPERIMENT) == 3
    subprocess.run([sys.executable, "-P", "-c", example], cwd=tmp_path, check=True)


@pytest.mark.long
def test_a_model_is_served_over_http(
    chain: Project, loaded: dict[str, Any], tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["models", "serve", "-m", f"models:/{EXPERIMENT}-reward@current"]
    words += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": tracking_uri(chain.root)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with subprocess.Popen(
        [sys.executable, "-m", "mlflow", *words],
        cwd=tmp_path,
        env=environment,
        start_new_session=True,
    ) as server:
        try:
            wait_until(lambda: answers(f"{address}/ping", server), "the model is not served")
            rows = [list(row) for row in zip(PROMPTS, RESPONSES, strict=True)]
            frame = {"columns": ["prompt", "response"], "data": rows}
            reply = httpx.post(
                f"{address}/invocations",
                json={"dataframe_split": frame},
                timeout=SECONDS,
                trust_env=False,
            )
            assert reply.json()["predictions"] == pytest.approx(loaded["reward"], abs=1e-5)
        finally:
            os.killpg(server.pid, signal.SIGKILL)


def answers(address: str, server: subprocess.Popen[bytes]) -> bool:
    assert server.poll() is None
    with suppress(httpx.HTTPError):
        return httpx.get(address, timeout=5, trust_env=False).is_success
    return False


def test_registering_takes_no_second_copy_of_the_weights(chain: Project) -> None:
    client = client_of(chain.root)
    for name in ("base", "sft", "reward", "policy", "gold"):
        version = client.get_model_version(f"{EXPERIMENT}-{name}", "1")
        logged = client.get_logged_model(version.source.removeprefix("models:/"))
        folder = Path(logged.artifact_location.removeprefix("file://"))
        (kept,) = folder.rglob("model*.safetensors")
        # another name of the file in DVC's cache
        md5 = hashlib.md5(kept.read_bytes(), usedforsecurity=False).hexdigest()
        cached = chain.root / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
        assert kept.samefile(cached), name
        # which others may share
        assert cached.stat().st_mode & 0o444 == 0o444, name
        (own,) = Workspace(chain.root).model(name).glob("model*.safetensors")
        assert own.stat().st_mode & 0o444 == 0o444, name


def test_the_policy_carries_its_win_rates_and_tells_where_it_comes_from(chain: Project) -> None:
    client = client_of(chain.root)
    version = client.get_model_version_by_alias(f"{EXPERIMENT}-policy", "challenger")
    logged = client.get_logged_model(version.source.removeprefix("models:/"))
    metrics = {metric.key: metric.value for metric in logged.metrics or []}
    evaluated = json.loads(Workspace(chain.root).metrics("evaluate").read_text())
    trained = json.loads(Workspace(chain.root).metrics("ppo").read_text())
    assert metrics["win_rate_over_sft_by_gold"] == evaluated["win_rate"]
    assert metrics["win_rate_over_sft_by_gold_low"] == evaluated["win_rate_low"]
    assert metrics["gold_score"] == evaluated["gold_score_policy"]
    assert metrics["kl_last"] == trained["kl_last"]
    assert len(version.tags) <= 10
    text = str(client.get_model_version(version.name, version.version).description)
    assert f"{evaluated['win_rate']:.3f} [{evaluated['win_rate_low']:.3f}" in text
    assert "`models/reward`" in text
