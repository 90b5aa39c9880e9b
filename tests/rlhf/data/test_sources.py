import subprocess
import sys
from pathlib import Path

import pytest
import torch
from raw_files import fetch_address, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.common.errors import SourceError
from rlhf.common.files import tree_sha256
from rlhf.data.load import name_of
from rlhf.data.sources import Source, find_source
from rlhf.registry import SOURCES


def names(directory: Path) -> set[str]:
    return {
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    }


def test_unknown_kinds_are_refused_with_the_known_ones() -> None:
    with pytest.raises(
        SourceError,
        match="'ftp'; known: additions, hub, path, planted, random, starter, wheel, world",
    ):
        find_source("ftp:somewhere")


def test_only_the_source_that_is_asked_for_is_imported() -> None:
    script = (
        "import sys; from rlhf.data.sources import find_source\n"
        "source, address = find_source('world:300')\n"
        "print(type(source).__name__, address.kind, address.detail)\n"
        "print(*(name for name in sys.modules if name.startswith('rlhf.data.sources.')))"
    )
    completed = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    found, modules = completed.stdout.splitlines()
    assert found == "WorldSource world 300"
    assert set(modules.split()) == {"rlhf.data.sources.base", "rlhf.data.sources.world"}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_registered_source_is_made_without_arguments(kind: str) -> None:
    source, address = find_source(f"{kind}:x")
    assert isinstance(source, Source) and (address.kind, address.detail) == (kind, "x")


@pytest.mark.parametrize(
    ("address", "use"), [("starter", "model"), ("random:2x64", "sft"), ("wheel:x==1", "sft")]
)
def test_what_a_kind_cannot_serve_it_refuses(address: str, use: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="this kind of source brings no"):
        fetch_address(address, tmp_path, use)


def test_random_model_is_the_same_each_time(tmp_path: Path) -> None:
    first = fetch_address("random:1x32", tmp_path / "a")
    state = torch.random.get_rng_state()
    assert fetch_address("random:1x32", tmp_path / "b") == first == tree_sha256(tmp_path / "a")
    assert torch.equal(torch.random.get_rng_state(), state)  # the global stream is left alone

    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "a"),
        AutoTokenizer.from_pretrained(tmp_path / "a"),
    )
    assert (
        (model.config.num_hidden_layers, model.config.hidden_size, model.config.vocab_size)
        == (1, 32, len(tokenizer))
        == (1, 32, 1024)
    )
    assert tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"]) == [
        0,
        1,
        2,
    ]
    assert (
        (tokenizer.pad_token_id, tokenizer.eos_token_id)
        == (model.config.pad_token_id, model.config.eos_token_id)
        == (0, 2)
    )
    text = "Any text: \u00e9\u4e2d\U0001f600\n\n  indented <|im_end|>"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("address", ["random:2", "random:0x64", "random:2x60", "random:"])
def test_random_addresses_are_checked(address: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="expected random:LAYERSxWIDTH"):
        fetch_address(address, tmp_path)


def test_path_keeps_the_names_that_carry_meaning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_DATA", str(tmp_path / "raw"))
    write_lines(tmp_path / "raw" / "hh" / "harmless-base" / "train.jsonl.gz", [{"text": "a"}])
    write_lines(tmp_path / "raw" / "hh" / "helpful-base" / "test.jsonl", [{"text": "b"}])
    (tmp_path / "raw" / "hh" / "notes.md").write_text("no data")
    (tmp_path / "raw" / "hh" / ".cache").mkdir()
    write_lines(tmp_path / "raw" / "hh" / ".cache" / "x.jsonl", [{"text": "c"}])
    for address, expected in (
        ("path:${SOME_DATA}/hh", {"hh/harmless-base/train.jsonl.gz", "hh/helpful-base/test.jsonl"}),
        ("path:raw/hh/harmless-base", {"harmless-base/train.jsonl.gz"}),
        ("path:raw/hh/harmless-base/train.jsonl.gz", {"harmless-base/train.jsonl.gz"}),
        ("path:${SOME_DATA}/hh/helpful-base/test.jsonl", {"helpful-base/test.jsonl"}),
        ("path:raw/hh/.", {"hh/harmless-base/train.jsonl.gz", "hh/helpful-base/test.jsonl"}),
    ):
        target = tmp_path / "out" / str(len(address))
        fetch_address(address, target, "sft", tmp_path)
        assert names(target) == expected


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("path:a.jsonl", "a.jsonl"),
        ("path:./a.jsonl", "a.jsonl"),
        ("path:mine/../a.jsonl", "a.jsonl"),
        ("path:../a.jsonl", "a.jsonl"),
        ("path:${HERE}/a.jsonl", "a.jsonl"),
        ("path:.", "a.jsonl"),
        ("path:mine", "mine/a.jsonl"),
    ],
)
def test_where_a_clone_lies_is_in_no_name_and_no_hash(
    address: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HERE", ".")
    hashes = set()
    for clone in ("one/harmless-bot", "two/newcomer"):
        root = tmp_path / clone
        for folder in ("mine" if address == "path:mine" else ".", ".."):
            write_lines(root / folder / "a.jsonl", [{"text": "a"}])
        (root / "mine").mkdir(exist_ok=True)
        target = tmp_path / "raw" / clone
        hashes.add(fetch_address(address, target, "sft", root))
        assert names(target) == {name}
        # and messages find the way back to what the settings say
        told = Path(name_of(address, name, only=True))
        assert told.name == "a.jsonl" and (root / str(told).replace("${HERE}", ".")).is_file()
    assert len(hashes) == 1


@pytest.mark.parametrize("address", ["path:~/data.jsonl", "path:~/$$data.jsonl"])
def test_path_expands_the_home_directory_and_the_sign_itself(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    name = address.removeprefix("path:~/").replace("$$", "$")
    write_lines(tmp_path / "home" / name, [{"text": "a"}])
    fetch_address(address, tmp_path / "out", "sft", tmp_path / "elsewhere")
    assert names(tmp_path / "out") == {name}


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("path:${NOT_SET_ANYWHERE}/x", "environment variable NOT_SET_ANYWHERE is not set"),
        ("path:nowhere", "nowhere does not exist"),
        ("path:", "a path is missing behind the colon"),
        ("path:a$", "begins a variable"),
        ("path:empty", "no data files"),
        ("path:notes.md", "no data files"),
    ],
)
def test_path_faults_are_named(address: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(SourceError, match=message) as refused:
        fetch_address(address, tmp_path / "out", "sft", tmp_path)
    assert str(refused.value).startswith(f"{address.removesuffix(':')}: ")


def test_path_model_leaves_pickles_and_code_behind(base_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in base_model.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    (model / "modeling.py").write_text("raise SystemExit")
    digest = fetch_address("path:model", tmp_path / "a", root=tmp_path)
    assert names(tmp_path / "a") == names(base_model)
    assert fetch_address("path:model", tmp_path / "b", root=tmp_path, pin=digest.upper()) == digest
    with pytest.raises(SourceError, match=f"sha256 is {digest}, but the settings pin {'0' * 64}"):
        fetch_address("path:model", tmp_path / "c", root=tmp_path, pin="0" * 64)


def test_starter_serves_the_one_file_of_each_use(tmp_path: Path) -> None:
    for use, name in (
        ("sft", "pairs"),
        ("preferences", "pairs"),
        ("prompts", "prompts"),
        ("evaluation", "evaluation"),
        ("pretrain", "pretrain"),
    ):
        fetch_address("starter", tmp_path / use, use)
        assert names(tmp_path / use) == {f"{name}.jsonl"}
    with pytest.raises(SourceError, match="takes nothing"):
        fetch_address("starter:x", tmp_path / "x", "sft")
