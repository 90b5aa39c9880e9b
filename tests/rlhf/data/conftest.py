"""Settings, a base model and raw files for the data tests: all real, all small."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from rlhf.common.yaml import parse_yaml
from rlhf.data.base_model import finish_base_model
from rlhf.data.sources import FetchRequest, find_source
from rlhf.data.sources.base import MODEL
from rlhf.data.sources.starter import FILES, starter_file
from rlhf.data.templates import Fit
from rlhf.data.uses import raw_directory
from rlhf.settings import preset_text, settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


@pytest.fixture
def make_settings() -> Callable[..., Settings]:
    """Make the tiny preset with other values under `data`."""

    def make(**data: Any) -> Settings:
        content = parse_yaml(preset_text("tiny"), "tiny")
        content["data"] |= {"limits": {}, **data}
        # without pairs of its own there is no gold model
        if not content["data"]["gold_fraction"]:
            content |= {"gold": None}
            content["evaluate"]["judges"] = ["rules"]
        return settings_from(content)

    return make


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model with the ChatML template."""
    directory = tmp_path_factory.mktemp("base")
    source, address = find_source("random:2x64")
    source.fetch_model(FetchRequest(address, MODEL, directory, 1), directory)
    finish_base_model(directory, Fit())
    return directory


@pytest.fixture(scope="session")
def tokenizer(base_model: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(base_model)


@pytest.fixture
def workspace(tmp_path: Path, base_model: Path) -> Workspace:
    """A workspace after `fetch` of the starter data."""
    made = Workspace(tmp_path)
    made.model("base").parent.mkdir(parents=True)
    made.model("base").symlink_to(base_model)
    for use in FILES:
        target = raw_directory(made.raw, use, 0) / FILES[use]
        target.parent.mkdir(parents=True)
        target.write_bytes(starter_file(FILES[use]).read_bytes())
    return made


@pytest.fixture
def bare(base_model: Path, tmp_path: Path) -> Path:
    """A base with one special token for everything, and neither template nor pad."""
    directory = Path(shutil.copytree(base_model, tmp_path / "bare"))
    tokenizer = AutoTokenizer.from_pretrained(directory)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    names = {"<|im_start|>": "<word a>", "<|im_end|>": "<word b>"}
    backend["added_tokens"] = [t for t in backend["added_tokens"] if t["content"] not in names]
    vocabulary = backend["model"]["vocab"]
    backend["model"]["vocab"] = {names.get(token, token): id for token, id in vocabulary.items()}
    for file in ("chat_template.jinja", "tokenizer.json", "tokenizer_config.json"):
        (directory / file).unlink(missing_ok=True)
    own = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(backend)), eos_token="<|endoftext|>"
    )
    own.save_pretrained(directory)
    for name in ("config.json", "generation_config.json"):
        content = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps(content | {"eos_token_id": 0}))
    return directory
