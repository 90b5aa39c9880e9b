import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from scripted_server import Script, endpoint, scripted

from rlhf.common.errors import DataError, RlhfError
from rlhf.common.files import read_json
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.evaluate import evaluate
from rlhf.evaluation.opponents import endpoint_responses, read_responses, responses_of
from rlhf.evaluation.responses import EvaluationPrompt, read_prompts
from rlhf.models.saving import load_causal_lm
from rlhf.settings import settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


@pytest.fixture
def workspace(trained: Path, tmp_path: Path) -> Workspace:
    (tmp_path / "models").symlink_to(trained / "models")
    shutil.copytree(trained / "data" / "prepared", tmp_path / "data" / "prepared")
    return Workspace(tmp_path)


def with_opponents(settings: Settings, **changes: object) -> Settings:
    content = settings.model_dump(mode="json", by_alias=True)
    content["evaluate"] |= changes
    return settings_from(content)


def write_responses(path: Path, workspace: Workspace, text: str = "w1 w2") -> None:
    rows = [
        {"id": prompt.id, "response": f"{text} {prompt.id}"} for prompt in read_prompts(workspace)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))


def test_another_directory_answers_like_the_stage_it_was_copied_from(
    workspace: Workspace, settings: Settings
) -> None:
    """The same model by another way: its own chat template and tokenizer, then back into our tokens."""
    engine, prompts = TorchEngine(settings.engine), read_prompts(workspace)
    copied = workspace.root / "other"
    shutil.copytree(workspace.model("sft").resolve(), copied)
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"  # ours are the bare words
    config = json.loads((copied / "tokenizer_config.json").read_text())
    (copied / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    changed = with_opponents(settings, opponents={"other": f"path:{copied}"})
    (ours, _), (theirs, _) = (
        responses_of(name, changed, workspace, prompts, engine) for name in ("sft", "other")
    )
    assert [each.text for each in theirs] == [each.text for each in ours]
    assert [each.finished for each in theirs] == [each.finished for each in ours]


def test_another_version_of_our_model_answers_token_by_token_as_it_does_as_a_stage(
    workspace: Workspace, settings: Settings
) -> None:
    engine, prompts = TorchEngine(settings.engine), read_prompts(workspace)
    changed = with_opponents(settings, opponents={"former": f"path:{workspace.model('sft')}"})
    (ours, _), (theirs, _) = (
        responses_of(name, changed, workspace, prompts, engine) for name in ("sft", "former")
    )
    assert theirs == ours


def test_at_temperature_0_each_token_is_the_likeliest_and_no_seed_matters(
    workspace: Workspace, settings: Settings
) -> None:
    engine, prompts = TorchEngine(settings.engine), read_prompts(workspace)
    generation = settings.evaluate.generation.model_dump(mode="json")
    greedy = generation | {"temperature": 0.0, "repetition_penalty": 1.0}
    model = load_causal_lm(workspace.model("sft"))
    found = []
    for seed in (1, 2):
        changed = with_opponents(settings, generation=greedy).model_copy(update={"seed": seed})
        found.append(responses_of("sft", changed, workspace, prompts, engine)[0])
    assert found[0] == found[1]
    for prompt, response in zip(prompts, found[0], strict=True):
        ids = list(prompt.ids)
        for token in response.ids:
            with torch.no_grad():
                assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
            ids.append(token)


def test_a_file_of_responses_is_compared_by_every_judge(
    workspace: Workspace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "k")
    monkeypatch.setattr(
        "scripted_server.verdict", lambda messages: "A" if "p3" in messages[1]["content"] else "tie"
    )
    write_responses(workspace.root / "answers.jsonl", workspace)
    with scripted(Script()) as url:
        changed = with_opponents(
            settings,
            opponents={"file": f"file:{workspace.root / 'answers.jsonl'}"},
            comparisons=[["policy", "file"], ["policy", "sft"]],
            judges=["gold", "rules", "api:gpt"],
            endpoints={"gpt": endpoint(url).model_dump(mode="json")},
        )
        evaluate(changed, workspace)
    table, found = pd.read_parquet(workspace.comparisons), read_json(workspace.metrics("evaluate"))
    assert len(table) == 10 * 2 * 3 and set(table["judge"]) == {"gold", "rules", "gpt"}
    assert table[table["baseline"] == "file"]["response_baseline"].str.startswith("w1 w2 p").all()
    gpt = table[(table["judge"] == "gpt") & (table["baseline"] == "file")]
    assert found["gpt_tie"] == (gpt["verdict"] == "tie").mean() == 1.0
    assert (
        found["gpt_orders_agree"] == 0.9 and found["gpt_prefers_first_shown"] == 1.0
    )  # only p3, and there always A
    assert found["gpt_unjudged"] == 0 and found["gpt_answers_asked"] == 40
    assert {
        "kappa_gold_rules",
        "agreement_gold_gpt",
        "policy_vs_sft_rules_win_rate",
        "gold_score_file",
    } <= found.keys()
    both = (
        table[table["judge"] == "gold"]["verdict"].to_numpy()
        == table[table["judge"] == "rules"]["verdict"].to_numpy()
    )
    assert found["agreement_gold_rules"] == pytest.approx(both.mean())
    rows = read_json(workspace.details("evaluate"))["agreement"]
    assert [(row["left"], row["right"], row["pairs"]) for row in rows] == [
        ("gold", "rules", 20), ("gold", "gpt", 20), ("rules", "gpt", 20),
    ]  # fmt: skip


def test_where_a_judge_is_silent_its_numbers_are_missing_and_nothing_else(
    workspace: Workspace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "k")
    monkeypatch.setattr("scripted_server.verdict", lambda messages: "perhaps")
    with scripted(Script()) as url:
        patient = endpoint(url, give_up_after=None)
        endpoints = {"gpt": patient.model_dump(mode="json")}
        evaluate(
            with_opponents(settings, judges=["gold", "api:gpt"], endpoints=endpoints), workspace
        )
    found, table = read_json(workspace.metrics("evaluate")), pd.read_parquet(workspace.comparisons)
    assert (
        found["gpt_unjudged"] == 10
        and found["gpt_win_rate"] is None
        and found["win_rate"] is not None
    )
    assert found["agreement_gold_gpt"] is None
    assert table[table["judge"] == "gpt"]["verdict"].isna().all()


def test_a_prompt_that_an_opponent_refuses_is_compared_by_nobody(
    workspace: Workspace, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "k")
    monkeypatch.setattr("scripted_server.verdict", lambda messages: "fine")
    refused = read_prompts(workspace)[0]
    script = Script()
    monkeypatch.setattr(
        script, "fault", lambda: "filtered" if script.bodies[-1]["messages"] == said else None
    )
    said = [dict(message) for message in refused.messages]
    with scripted(script) as url:
        one = endpoint(url, concurrency=1).model_dump(mode="json")
        changed = with_opponents(
            settings,
            opponents={"chat": "api:chat"},
            comparisons=[["policy", "chat"]],
            judges=["gold", "rules"],
            endpoints={"chat": one},
        )
        evaluate(changed, workspace)
    found, table = read_json(workspace.metrics("evaluate")), pd.read_parquet(workspace.comparisons)
    assert (
        found["missing_chat"] == found["unjudged"] == found["rules_unjudged"] == 1
        and found["missing_policy"] == 0
    )
    assert (
        table[table["id"] == refused.id]["verdict"].isna().all()
        and table["verdict"].notna().sum() == 18
    )
    assert found["opponent_chat_answers_asked"] == 9


def test_an_endpoint_answers_prompts_as_an_opponent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRIPTED_KEY", "k")
    monkeypatch.setattr("scripted_server.verdict", lambda messages: messages[-1]["content"].upper())
    prompts = [
        EvaluationPrompt(str(n), "helpful", ({"role": "user", "content": f"say {n}"},), (1,))
        for n in range(3)
    ]
    script = Script()
    with scripted(script) as url:
        found, facts = endpoint_responses(
            "scripted", endpoint(url), prompts, 20, tmp_path / "answers.db"
        )
        script.finish_reason = "length"
        limited = endpoint(url, parameters={"max_completion_tokens": 9, "top_k": 1})
        cut, _ = endpoint_responses("scripted", limited, prompts, 20, tmp_path / "answers.db")
    assert [(json.loads(answer.text)["verdict"], answer.finished) for answer in found] == [
        ("SAY 0", True), ("SAY 1", True), ("SAY 2", True),
    ]  # fmt: skip
    assert not any(answer.finished for answer in cut)
    assert facts["answers_asked"] == 3 and facts["price"] == pytest.approx(3 * 280 / 1e6)
    assert script.bodies[0]["max_tokens"] == 20 and "max_tokens" not in script.bodies[-1]
    assert script.bodies[-1]["max_completion_tokens"] == 9 and script.bodies[-1]["top_k"] == 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"judges": ["gold", "api:chat"]}, "SCRIPTED_KEY is not set"),
        ({"judges": ["gold", "people:nowhere.jsonl"]}, r"nowhere\.jsonl: no such file"),
        ({"opponents": {"other": "path:nowhere"}}, "nowhere"),
        ({"opponents": {"other": "file:nowhere.jsonl"}}, r"nowhere\.jsonl: no such file"),
        ({"judges": ["people:$NOT_SET/votes.jsonl"]}, "NOT_SET is not set"),
        ({"opponents": {"other": "path:${NOT_SET}/model"}}, "NOT_SET is not set"),
        ({"opponents": {"other": "file:$NOT_SET"}}, "NOT_SET is not set"),
    ],
)
def test_what_judges_and_opponents_lack_is_told_before_any_work(
    workspace: Workspace,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, object],
    said: str,
) -> None:
    monkeypatch.delenv("SCRIPTED_KEY", raising=False)
    monkeypatch.delenv("NOT_SET", raising=False)
    monkeypatch.setattr("rlhf.evaluation.evaluate.compare", None)
    monkeypatch.setattr("rlhf.evaluation.evaluate.alignment_tax", None)
    endpoints = {"chat": endpoint("http://127.0.0.1:1/v1").model_dump(mode="json")}
    with pytest.raises(RlhfError, match=said):
        evaluate(with_opponents(settings, endpoints=endpoints, **change), workspace)


def test_faults_of_a_file_of_responses_are_named(workspace: Workspace) -> None:
    path, prompts = workspace.root / "answers.jsonl", read_prompts(workspace)
    with pytest.raises(DataError, match=r"answers\.jsonl: no such file"):
        read_responses(path, prompts)
    write_responses(path, workspace)
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-2]))
    with pytest.raises(DataError, match="2 of 10 prompts have no response, for example id 'p8'"):
        read_responses(path, prompts)
    path.write_text("\n".join([*lines, '{"id": 3}']))
    with pytest.raises(DataError, match=r"answers\.jsonl:11: expected \{id or prompt"):
        read_responses(path, prompts)
    path.write_text("\n".join([*lines, "", lines[0]]))
    with pytest.raises(DataError, match=r"answers\.jsonl:12: a second response to 'p0'"):
        read_responses(path, prompts)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"answers\.jsonl: not UTF-8 text"):
        read_responses(path, prompts)
    path.write_text("\n".join([*lines, "{"]))
    with pytest.raises(DataError, match=r"answers\.jsonl:11: not JSON"):
        read_responses(path, prompts)


def test_an_opponent_needs_no_pad_and_no_template_and_ends_as_its_files_say(
    workspace: Workspace, settings: Settings, tmp_path: Path
) -> None:
    """It only answers. A model that names every token as an end says one, and has finished."""
    opponent = Path(shutil.copytree(workspace.model("sft"), tmp_path / "opponent"))
    config = json.loads((opponent / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (opponent / "tokenizer_config.json").write_text(json.dumps(config))
    ends = {"eos_token_id": list(range(64))}
    (opponent / "generation_config.json").write_text(json.dumps(ends))
    changed = with_opponents(settings, opponents={"other": f"path:{opponent}"})
    prompts = read_prompts(workspace)
    found, _ = responses_of("other", changed, workspace, prompts, TorchEngine(settings.engine))
    assert all(response.finished and len(response.text.split()) <= 1 for response in found)
