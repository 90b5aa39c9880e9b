from pathlib import Path

import pytest
import torch
from raw_files import bring, write_lines
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.common.errors import SourceError
from rlhf.common.files import tree_sha256
from rlhf.data.sources import find_source


def names(directory: Path) -> set[str]:
    return {
        path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
    }


def test_unknown_kinds_are_refused_with_the_known_ones() -> None:
    with pytest.raises(SourceError, match="'ftp'; known: hub, path, random, starter, wheel, world"):
        find_source("ftp:somewhere")


@pytest.mark.parametrize(
    ("address", "use"), [("starter", "model"), ("random:2x64", "sft"), ("wheel:x==1", "sft")]
)
def test_what_a_kind_cannot_bring_it_refuses(address: str, use: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="this kind of source brings no"):
        bring(address, tmp_path, use)


def test_random_model_is_the_same_each_time(tmp_path: Path) -> None:
    first = bring("random:1x32", tmp_path / "a")
    state = torch.random.get_rng_state()
    assert bring("random:1x32", tmp_path / "b") == first == tree_sha256(tmp_path / "a")
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
        bring(address, tmp_path)


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
    ):
        target = tmp_path / "out" / str(len(address))
        bring(address, target, "sft", tmp_path)
        assert names(target) == expected


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("path:${NOT_SET_ANYWHERE}/x", "environment variable NOT_SET_ANYWHERE is not set"),
        ("path:nowhere", "nowhere does not exist"),
        ("path:", "does not exist"),
        ("path:a$", "begins a variable"),
        ("path:empty", "no data files"),
        ("path:notes.md", "no data files"),
    ],
)
def test_path_faults_are_named(address: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("x")
    with pytest.raises(SourceError, match=message):
        bring(address, tmp_path / "out", "sft", tmp_path)


def test_path_model_leaves_pickles_and_code_behind(base_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for path in base_model.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    (model / "pytorch_model.bin").write_bytes(b"pickle")
    (model / "modeling.py").write_text("raise SystemExit")
    digest = bring("path:model", tmp_path / "a", root=tmp_path)
    assert names(tmp_path / "a") == names(base_model)
    assert bring("path:model", tmp_path / "b", root=tmp_path, pin=digest.upper()) == digest
    with pytest.raises(SourceError, match=f"sha256 is {digest}, but the settings pin {'0' * 64}"):
        bring("path:model", tmp_path / "c", root=tmp_path, pin="0" * 64)


def test_starter_brings_the_one_file_of_each_use(tmp_path: Path) -> None:
    for use, name in (
        ("sft", "pairs"),
        ("preferences", "pairs"),
        ("prompts", "prompts"),
        ("evaluation", "evaluation"),
        ("pretrain", "pretrain"),
    ):
        bring("starter", tmp_path / use, use)
        assert names(tmp_path / use) == {f"{name}.jsonl"}
    with pytest.raises(SourceError, match="takes nothing"):
        bring("starter:x", tmp_path / "x", "sft")
