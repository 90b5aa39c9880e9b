"""Downloads from a hub on the loopback, in a process of their own because huggingface_hub reads its endpoint on import."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_hub import COMMIT, OLDER, fake_hub

DATA = {
    "harmless-base/train.jsonl.gz": gzip.compress(b'{"text": "one"}\n'),
    "harmless-base/test.jsonl.gz": gzip.compress(b'{"text": "two"}\n'),
    "helpful-base/train.jsonl": b'{"text": "three"}\n',
    "loader.py": b"raise SystemExit",
    "data.pkl": b"pickle",
    "README.md": b"# card",
    ".gitattributes": b"",
    "harmless-base/more.xlsx": b"sheet",
}
MODEL = {
    "config.json": b"{}",
    "model.safetensors": b"weights",
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"pickle",
    "modeling.py": b"raise SystemExit",
    "onnx/config.json": b"{}",
}
CASES = {
    "commit": ("sft", f"hub:people/talk@{COMMIT}"),
    "tag": ("sft", "hub:people/talk@v1"),
    "folder": ("sft", "hub:people/talk@v1#harmless-base"),
    "no such folder": ("sft", "hub:people/talk@v1#harmless"),
    "branch": ("sft", "hub:people/talk@main"),
    "unknown tag": ("sft", "hub:people/talk@v9"),
    "unknown commit": ("sft", f"hub:people/talk@{'c' * 40}"),
    "empty": ("sft", f"hub:people/talk@{OLDER}"),
    "no revision": ("sft", "hub:people/talk"),
    "no repository": ("sft", f"hub:people/silence@{COMMIT}"),
    "model": ("model", "hub:people/llm@v1"),
    "model folder": ("model", "hub:people/llm@v1#onnx"),
}
SCRIPT = """
import json, logging, sys
from pathlib import Path
from rlhf.common.errors import SourceError
from rlhf.data.sources import FetchRequest, find_source
logging.basicConfig(format="%(message)s")
results = {}
for name, (use, text) in json.loads(sys.argv[2]).items():
    source, address = find_source(text)
    directory = Path(sys.argv[1]) / name
    directory.mkdir(parents=True)
    fetch = source.fetch_model if use == "model" else source.fetch_data
    try:
        result = fetch(FetchRequest(address, use, Path(), 1), directory)
        results[name] = {"revision": result.revision, "sha256": result.sha256}
    except SourceError as error:
        results[name] = {"error": str(error)}
print(json.dumps(results))
"""


def fetch_cases(
    endpoint: str, home: Path, out: Path, cases: dict[str, tuple[str, str]]
) -> dict[str, Any]:
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    for name in ("HF_HUB_CACHE", "HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        environment.pop(name, None)
    command = [sys.executable, "-c", SCRIPT, str(out), json.dumps(cases)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def fetched(place: Path) -> dict[str, Any]:
    with fake_hub({"datasets/people/talk": DATA, "models/people/llm": MODEL}) as (endpoint, asked):
        found = fetch_cases(endpoint, place / "home", place / "out", CASES)
    return {**found, "asked": asked}


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_commits_and_tags_are_fetched_and_recorded(place: Path, fetched: dict[str, Any]) -> None:
    wanted = {name: data for name, data in DATA.items() if name.endswith((".jsonl", ".jsonl.gz"))}
    for name in ("commit", "tag"):
        assert files_of(place / "out" / name) == wanted
        assert fetched[name]["revision"] == COMMIT
    assert fetched["commit"]["sha256"] == fetched["tag"]["sha256"]


def test_one_folder_comes_alone(place: Path, fetched: dict[str, Any]) -> None:
    assert set(files_of(place / "out" / "folder")) == {
        "harmless-base/train.jsonl.gz",
        "harmless-base/test.jsonl.gz",
    }


def test_what_is_not_read_is_named(fetched: dict[str, Any]) -> None:
    told = [line for line in fetched["said"].splitlines() if "not read: " in line]
    found = {line.partition(": not read: ")[0]: line.partition(": not read: ")[2] for line in told}
    everything = "README.md, data.pkl, harmless-base/more.xlsx, loader.py; unpack xz"
    assert found[f"hub:people/talk@{COMMIT}"].startswith(everything)
    # of a folder what lies in it
    assert found["hub:people/talk@v1#harmless-base"].startswith("harmless-base/more.xlsx; unpack")
    # asked for by name alone
    assert not [path for path in fetched["asked"] if path.endswith("more.xlsx")]


def test_models_come_without_pickles_and_code(place: Path, fetched: dict[str, Any]) -> None:
    assert set(files_of(place / "out" / "model")) == {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    }
    assert not [path for path in fetched["asked"] if path.endswith((".py", ".bin", ".pkl", ".md"))]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("branch", f"a branch moves; pin the commit that it names now: @{COMMIT}"),
        ("unknown tag", "no tag 'v9'; there are: v1"),
        ("unknown commit", "cannot be downloaded"),
        ("no repository", "cannot be downloaded"),
        ("no revision", "expected hub:OWNER/NAME@REVISION"),
        ("empty", "no data files there"),
        ("no such folder", "no data files there"),
        ("model folder", "#FOLDER is for data"),
    ],
)
def test_faults_are_told(fetched: dict[str, Any], name: str, message: str) -> None:
    assert message in fetched[name].get("error", "nothing went wrong")


def test_a_second_fetch_of_a_commit_needs_no_network(place: Path, fetched: dict[str, Any]) -> None:
    cases = {
        "commit": CASES["commit"],
        "folder": ("sft", f"hub:people/talk@{COMMIT}#harmless-base"),
        "tag": CASES["tag"],
    }
    found = fetch_cases("http://127.0.0.1:9", place / "home", place / "again", cases)
    assert found["commit"] == fetched["commit"] and "error" not in found["folder"]
    # nor does the list of what is not read
    assert f"hub:people/talk@{COMMIT}: not read: README.md, data.pkl" in found["said"]
    assert (
        "cannot be downloaded" in found["tag"]["error"]
    )  # which commit a tag names, only the hub knows
