import json
import shutil
from pathlib import Path

import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from rlhf.common.errors import SettingsError
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.knowledge import Knowledge, measure_knowledge, starter_questions
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


@torch.no_grad()
def test_the_answer_that_is_likeliest_per_character_counts(
    trained: Path, settings: Settings
) -> None:
    """lm-eval's figure against a loop over the questions."""
    directory = Workspace(trained).model("sft")
    model, tokenizer, right = load_causal_lm(directory), load_tokenizer(directory), 0
    rows = [json.loads(line) for line in starter_questions().read_text().splitlines()[:20]]
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
    found = measure_knowledge(directory, ("starter",), 20, TorchEngine(settings.engine), settings)
    share = right / 20
    error = (share * (1 - share) / 20) ** 0.5
    assert found == {"starter": Knowledge(pytest.approx(share), pytest.approx(error), 0)}


@pytest.mark.parametrize(
    ("window", "cut", "longest"),
    [(1024, 0, 704), (704, 0, 704), (703, 1, 703), (64, 2, 64), ("longrope", 2, 64)],
)
def test_questions_are_as_long_as_the_window_and_what_is_cut_is_told(
    trained: Path, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    window: int | str, cut: int, longest: int,
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
    stated: dict[str, object] = {"max_position_embeddings": window}
    if window == "longrope":
        factors = [1.0] * (config["hidden_size"] // config["num_attention_heads"] // 2)
        rope = {"rope_type": "longrope", "rope_theta": 10000.0, "factor": 16.0}
        rope |= {"short_factor": factors, "long_factor": factors}
        stated = {"max_position_embeddings": 1024}
        stated["rope_parameters"] = rope | {"original_max_position_embeddings": 64}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config | stated))
    monkeypatch.setattr("rlhf.evaluation.knowledge.starter_questions", lambda: questions)
    seen: list[torch.Size] = []
    called = HFLM._model_call
    monkeypatch.setattr(
        HFLM, "_model_call", lambda self, ids: (seen.append(ids.shape), called(self, ids))[1]
    )
    monkeypatch.setattr("rlhf.evaluation.knowledge.TOKENS_PER_BATCH", 1500)
    found = measure_knowledge(
        tmp_path / "model", ("starter",), None, TorchEngine(settings.engine), settings
    )
    assert (found["starter"].cut, max(width for _, width in seen)) == (cut, longest)
    assert max(rows * width for rows, width in seen) <= 1500  # memory follows the tokens of a batch


# lm-eval reads 14,000 files for the index of its own tasks
@pytest.mark.parametrize("with_index", [False, pytest.param(True, marks=pytest.mark.long)])
def test_an_unknown_task_is_named(
    trained: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch, with_index: bool
) -> None:
    if not with_index:
        none = TaskManager(include_defaults=False)
        monkeypatch.setattr("rlhf.evaluation.knowledge._task_manager", lambda _: none)
    with pytest.raises(SettingsError, match=r"evaluate\.tax\.tasks: lm-eval cannot run nonsense"):
        measure_knowledge(
            Workspace(trained).model("sft"),
            ("nonsense",),
            4,
            TorchEngine(settings.engine),
            settings,
        )


def test_questions_are_whole_and_asked_once() -> None:
    rows = [json.loads(line) for line in starter_questions().read_text().splitlines()]
    assert len({row["question"] for row in rows}) == len(rows) >= 100
    assert all(len(set(row["choices"])) == 4 and row["answer"] in range(4) for row in rows)
    places = [row["answer"] for row in rows]
    assert max(places.count(place) for place in range(4)) < 0.35 * len(rows)
    longest = [len(row["choices"][row["answer"]]) == max(map(len, row["choices"])) for row in rows]
    assert sum(longest) / len(rows) < 0.6  # length does not tell
