import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from lm_eval.models.huggingface import HFLM

from rlhf.common.errors import SettingsError
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.tax import Knowledge, alignment_tax, knowledge
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.settings import settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace

QUESTIONS = Path(__file__).parents[3] / "rlhf" / "evaluation" / "knowledge.jsonl"


@pytest.fixture(scope="session")
def taxed(settings: Settings) -> Settings:
    content = settings.model_dump(mode="json", by_alias=True)
    content["evaluate"]["tax"] = {
        "models": ["sft", "policy", "other"],
        "tasks": ["starter"],
        "limit": 20,
    }
    content["evaluate"]["opponents"] = {"other": "path:$OTHER_MODEL"}
    return settings_from(content)


@torch.no_grad()
def test_the_answer_that_is_likeliest_per_character_counts(
    trained: Path, settings: Settings
) -> None:
    """lm-eval's figure against a loop over the questions."""
    directory = Workspace(trained).model("sft")
    model, tokenizer, right = load_causal_lm(directory), load_tokenizer(directory), 0
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines()[:20]]
    for row in rows:
        context = tokenizer.encode(f"Question: {row['question']}\nAnswer:")
        scores = []
        for choice in row["choices"]:
            ids = tokenizer.encode(f"Question: {row['question']}\nAnswer: {choice}")
            logprobs = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
            total = sum(
                float(logprobs[place - 1, ids[place]]) for place in range(len(context), len(ids))
            )
            scores.append(total / len(choice))
        right += max(range(4), key=scores.__getitem__) == row["answer"]
    found = knowledge(directory, ("starter",), 20, TorchEngine(settings.engine), settings)
    share = right / 20
    error = (share * (1 - share) / 20) ** 0.5
    assert found == {"starter": Knowledge(pytest.approx(share), pytest.approx(error), 0)}


@pytest.mark.parametrize(
    ("window", "cut", "longest"), [(1024, 0, 704), (704, 0, 704), (703, 1, 703), (64, 2, 64)]
)
def test_questions_are_as_long_as_the_window_and_what_is_cut_is_told(
    trained: Path, taxed: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    window: int, cut: int, longest: int,
) -> None:  # fmt: skip
    """Questions of 4, 100 and 700 words and 4 tokens about them; an answer of one word is predicted and not read."""
    questions = tmp_path / "questions.jsonl"
    rows = [
        {"question": " ".join(["w9"] * n), "choices": ["w5", "w6"], "answer": 0}
        for n in (4, 100, 700)
    ]
    questions.write_text("\n".join(map(json.dumps, rows)))
    shutil.copytree(Workspace(trained).model("sft"), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    (tmp_path / "model" / "config.json").write_text(
        json.dumps(config | {"max_position_embeddings": window})
    )
    monkeypatch.setattr("rlhf.evaluation.tax._questions", lambda: questions)
    seen: list[torch.Size] = []
    called = HFLM._model_call
    monkeypatch.setattr(
        HFLM, "_model_call", lambda self, ids: (seen.append(ids.shape), called(self, ids))[1]
    )
    monkeypatch.setattr("rlhf.evaluation.tax._TOKENS", 1500)
    found = knowledge(tmp_path / "model", ("starter",), None, TorchEngine(taxed.engine), taxed)
    assert (found["starter"].cut, max(width for _, width in seen)) == (cut, longest)
    assert max(rows * width for rows, width in seen) <= 1500  # memory follows the tokens of a batch


def test_the_tax_of_each_model(
    trained: Path,
    taxed: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    workspace = Workspace(trained)
    monkeypatch.setenv("OTHER_MODEL", str(workspace.model("sft")))
    rows = [{"id": str(n), "split": "validation", "input_ids": [5, 6, 7 + n]} for n in range(3)]
    pd.DataFrame(rows).assign(kind="plain", source="made", opening="", text="").to_parquet(
        workspace.prepared / "pretrain.parquet"
    )
    monkeypatch.setattr("rlhf.evaluation.tax._cut", lambda samples, model: 3)
    flat, details = alignment_tax(taxed, workspace, TorchEngine(taxed.engine))
    told = "evaluate: starter: 3 questions are longer than the window of sft and lost their start"
    assert caplog.messages[0] == told
    assert [row["cut"] for row in details["tax"]] == [3, 3, 3]
    for name in ("sft", "policy"):
        assert {
            f"plain_text_loss_{name}",
            f"plain_text_perplexity_{name}",
            f"knowledge_starter_{name}",
        } <= flat.keys()
    assert flat["plain_text_loss_sft"] != flat["plain_text_loss_policy"]
    assert [row["model"] for row in details["tax"]] == ["sft", "policy", "other"]
    assert flat["plain_text_loss_other"] == flat["plain_text_loss_sft"]
    assert flat["knowledge_starter_other"] == flat["knowledge_starter_sft"]


def test_a_model_that_is_not_at_hand_has_no_likelihoods(settings: Settings) -> None:
    content = settings.model_dump(mode="json", by_alias=True)
    content["evaluate"]["tax"] = {"models": ["sft", "theirs"], "tasks": ["starter"], "limit": 20}
    content["evaluate"]["opponents"] = {"theirs": "file:answers.jsonl"}
    with pytest.raises(SettingsError, match=r"tax\.models: \['theirs'\]"):
        settings_from(content)


def test_an_unknown_task_is_named(trained: Path, settings: Settings) -> None:
    with pytest.raises(SettingsError, match=r"evaluate\.tax\.tasks: lm-eval cannot run nonsense"):
        knowledge(
            Workspace(trained).model("sft"),
            ("nonsense",),
            4,
            TorchEngine(settings.engine),
            settings,
        )


def test_questions_are_whole_and_asked_once() -> None:
    rows = [json.loads(line) for line in QUESTIONS.read_text().splitlines()]
    assert len({row["question"] for row in rows}) == len(rows) >= 100
    assert all(len(set(row["choices"])) == 4 and row["answer"] in range(4) for row in rows)
    places = [row["answer"] for row in rows]
    assert max(places.count(place) for place in range(4)) < 0.35 * len(rows)
    longest = [len(row["choices"][row["answer"]]) == max(map(len, row["choices"])) for row in rows]
    assert sum(longest) / len(rows) < 0.6  # length does not tell
