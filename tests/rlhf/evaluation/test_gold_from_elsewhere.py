"""`evaluate.gold: hf:DIRECTORY`: somebody else's reward model judges, by its own tokenizer."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from rlhf.common.errors import ModelError, SettingsError
from rlhf.common.files import read_json
from rlhf.evaluation.evaluate import check_ready, evaluate
from rlhf.evaluation.judges.gold import preference
from rlhf.settings import settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

# the end of an answer in the template of theirs
THEIR_END = "</s>"


def their_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"<pad>": 0, THEIR_END: 1} | {sign: 2 + i for i, sign in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token=THEIR_END
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    )
    return tokenizer


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("theirs")
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=258, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=512, pad_token_id=0, num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    their_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Workspace:
    """Without a gold model of ours."""
    shutil.copytree(trained / "data", tmp_path / "data")
    for name in ("base", "sft", "policy"):
        shutil.copytree(trained / "models" / name, tmp_path / "models" / name)
    return Workspace(tmp_path)


def with_gold(settings: Settings, address: str | None, **sections: Any) -> Settings:
    content = settings.model_dump(mode="json", by_alias=True)
    content["evaluate"]["gold"] = address
    return settings_from({**content, **sections})


@torch.no_grad()
def test_it_scores_the_texts_and_no_gold_model_of_ours_is_read(
    workspace: Workspace, settings: Settings, theirs: Path
) -> None:
    evaluate(with_gold(settings, f"hf:{theirs}", gold=None), workspace)
    table = pd.read_parquet(workspace.comparisons)
    assert set(table["judge"]) == {"gold"}

    model = AutoModelForSequenceClassification.from_pretrained(theirs)
    tokenizer = AutoTokenizer.from_pretrained(theirs)
    assert table["length_challenger"].nunique() > 1
    for row in table.head(8).to_dict("records"):
        scores = []
        for side in ("challenger", "baseline"):
            turns = [*json.loads(row["messages"])]
            turns.append({"role": "assistant", "content": row[f"response_{side}"]})
            text = "".join(f"{turn['role']}: {turn['content']}{THEIR_END}" for turn in turns)
            # one that was cut off at twelve tokens stays open
            if row[f"length_{side}"] == 12:
                text = text.removesuffix(THEIR_END)
            ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
            scores.append(float(model(**ids).logits[0, 0]))
            assert row[f"score_{side}"] == pytest.approx(scores[-1], abs=1e-4)
        wanted = {"first": "win", "second": "lose", "tie": "tie"}[
            preference(scores[0], scores[1], settings.evaluate.tie_probability)
        ]
        assert row["verdict"] == wanted
    assert "gold_score_policy" in read_json(workspace.metrics("evaluate"))


def test_what_is_not_there_is_told_before_any_work(
    workspace: Workspace, settings: Settings
) -> None:
    with pytest.raises(ModelError, match="nowhere: no model here"):
        check_ready(with_gold(settings, "hf:nowhere"), workspace)
    # nobody asks for it
    only_rules = with_gold(settings, "hf:nowhere")
    check_ready(only_rules, workspace, ["rules"])


@pytest.mark.parametrize("address", ["theirs", "hf:", "path:theirs", "model:gold"])
def test_other_addresses_are_refused(settings: Settings, address: str) -> None:
    with pytest.raises(SettingsError, match=r"evaluate\.gold.* expected hf:DIRECTORY, or null"):
        with_gold(settings, address)
