"""`rlhf credit` and `rlhf search` on a small DPO model."""

import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest
import torch
from cli_runner import run
from transformers import PreTrainedModel

from rlhf.batches.tables import write_table
from rlhf.commands.credit import (
    Answer,
    PromptWithAnswers,
    TokenCredit,
    credit_page,
    credited,
    dialogue_of_text,
    token_texts,
)
from rlhf.common.files import weights_sha256
from rlhf.models.dpo import DpoNote, save_dpo_model
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.workspace import OFF_FILE, Workspace

BETA = 0.3
PROMPT, RESPONSE = "How do I boil an egg?", "Put it in water — ten minutes."
WICKED = "<script>alert(1)</script> & \x1b[31m"


@pytest.fixture(scope="module")
def made(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A reference, a model that was trained against it, and two test pairs; only to be read."""
    workspace = Workspace(tmp_path_factory.mktemp("credit"))
    shutil.copytree(trained.model("policy"), workspace.model("sft"))
    tokenizer = load_tokenizer(workspace.model("sft"))
    model = load_causal_lm(workspace.model("sft"))
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.05 * torch.randn(value.shape, generator=random))
    note = DpoNote(BETA, "sigmoid", weights_sha256(workspace.model("sft")))
    save_dpo_model(model, tokenizer, workspace.model("dpo"), note)
    workspace.prepared.mkdir(parents=True)
    rows = [_pair(number, tokenizer.encode("Hi"), tokenizer.encode("fox")) for number in range(2)]
    write_table(workspace.prepared, "preferences", rows)
    return workspace


def _pair(number: int, prompt: list[int], answer: list[int]) -> dict[str, object]:
    return {
        "id": f"pair-{number}",
        "kind": "helpful",
        "split": "test",
        "source": "made",
        "opening": "Hi",
        "messages": json.dumps([{"role": "user", "content": f"{WICKED} {number}"}]),
        "unseen_opening": False,
        "chosen": "fox",
        "rejected": "",
        "prompt_ids": prompt,
        "chosen_ids": [*answer, 2],
        "rejected_ids": [2],
    }


@torch.no_grad()
def slow_logprobs(model: PreTrainedModel, dialogue: PromptWithAnswers, title: str) -> list[float]:
    prompt, answer = list(dialogue.prompt_ids), list(dialogue.answers[title])
    logprobs = model(input_ids=torch.tensor([prompt + answer])).logits[0].log_softmax(dim=1)
    return [float(logprobs[len(prompt) - 1 + t, token]) for t, token in enumerate(answer)]


def test_credit_is_beta_times_the_log_ratio_of_each_token(made: Workspace) -> None:
    model, reference = (load_causal_lm(made.model(name)) for name in ("dpo", "sft"))
    tokenizer = load_tokenizer(made.model("dpo"))
    dialogue = dialogue_of_text(tokenizer, PROMPT, RESPONSE)
    (answer,) = credited(dialogue, model, reference, tokenizer, BETA)
    ours, theirs = (slow_logprobs(one, dialogue, "answer") for one in (model, reference))
    expected = [BETA * (p - r) for p, r in zip(ours, theirs, strict=True)]
    assert [token.credit for token in answer.tokens] == pytest.approx(expected, abs=1e-4)
    assert [token.logprob for token in answer.tokens] == pytest.approx(ours, abs=1e-4)
    assert answer.total == pytest.approx(sum(expected), abs=1e-4)
    # the end token belongs to the answer
    assert dialogue.answers["answer"][-1] == tokenizer.eos_token_id
    assert "".join(token.text for token in answer.tokens) == RESPONSE + "<|im_end|>"


def test_a_character_of_several_tokens_stands_with_its_last_one(made: Workspace) -> None:
    tokenizer = load_tokenizer(made.model("sft"))
    ids = tokenizer.encode("a😀b", add_special_tokens=False)
    assert len(ids) > 3
    texts = token_texts(tokenizer, ids)
    assert texts[0] == "a" and texts[-1] == "b" and "😀" in texts and "" in texts
    assert "".join(texts) == "a😀b"


def test_a_pair_s_answers_side_by_side_on_one_page(made: Workspace, tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    code, told = run("credit", "--row", "1", "--output", str(output), root=made.root)
    assert code == 0, told
    assert re.search(r"chosen: [+-]\d\.\d{3} over \d+ tokens", told)
    page = output.read_text(encoding="utf-8")
    assert "<h2>chosen</h2>" in page and "<h2>rejected</h2>" in page
    assert f"β = {BETA}" in page and "models/sft" in page
    numbers = re.findall(r'title="credit ([+-][\d.]+), log π ([+-][\d.]+), log π_ref', page)
    assert len(numbers) == len(re.findall(r"--share: ", page)) > 2
    # text is shown as it is, and nothing of it runs or is fetched
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page
    assert "http" not in page.replace("http-equiv", "") and "default-src 'none'" in page
    assert "\x1b" not in unescape(page)


def test_the_colours_are_a_scale(tmp_path: Path) -> None:
    tokens = [TokenCredit("a", 0.4, -1.0, -1.4), TokenCredit("", -0.2, -2.0, -1.8)]
    page = credit_page(
        PromptWithAnswers("p", [1], {}), [Answer("answer", tokens)], Path("m"), Path("r"), 1.0
    )
    assert 'class="plus" style="--share: 0.800" title="credit +0.400' in page
    assert 'class="minus" style="--share: 0.400" title="credit -0.200' in page
    assert ">·</span>" in page and "sum +0.200, 2 tokens" in page
    assert "<span>-0.400</span>" in page and "<span>+0.400</span>" in page


def test_a_model_that_is_its_reference_gives_no_credit(made: Workspace, tmp_path: Path) -> None:
    arguments = ["--prompt", PROMPT, "--response", RESPONSE, "--beta", "0.5"]
    arguments += ["--model", "models/sft", "--output", str(tmp_path / "page.html")]
    code, told = run("credit", *arguments, root=made.root)
    assert code == 0 and "answer: +0.000 over" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--prompt with --response, or --row"),
        (["--prompt", "x"], "--prompt with --response, or --row"),
        (["--prompt", "x", "--response", "y", "--row", "0"], "--prompt with --response, or --row"),
        (["--row", "2"], "split test has the rows 0 to 1"),
        (["--row", "-1"], "split test has the rows 0 to 1"),
        (["--row", "0", "--model", "models/sft"], "this is not a model of stage dpo"),
        (["--row", "0", "--reference", "models/dpo"], "trained against a reference"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    made: Workspace, arguments: list[str], message: str
) -> None:
    code, told = run("credit", *arguments, root=made.root)
    assert code == 1 and message in told
    assert not (made.root / "credit.html").exists()


def test_a_stage_that_is_off_is_named(made: Workspace, tmp_path: Path) -> None:
    shutil.copytree(made.root / "models", tmp_path / "models")
    shutil.rmtree(tmp_path / "models" / "dpo")
    (tmp_path / "models" / "dpo").mkdir()
    (tmp_path / "models" / "dpo" / OFF_FILE).write_text("{}")
    code, told = run("credit", "--prompt", "x", "--response", "y", root=tmp_path)
    assert code == 1 and "stage dpo is off" in told


# -- search ----------------------------------------------------------------------------------------


def test_search_shows_the_likeliest_answer_of_each_width(made: Workspace) -> None:
    arguments = ["--beams", "1, 3", "--max-new-tokens", "6"]
    code, told = run("search", PROMPT, *arguments, root=made.root)
    assert code == 0, told
    found = re.findall(r"^beams (\d): log pi (-[\d.]+), (\d) tokens", told, re.MULTILINE)
    assert [width for width, _, _ in found] == ["1", "3"]
    assert all(int(length) <= 6 for _, _, length in found)
    assert run("search", PROMPT, *arguments, root=made.root)[1] == told


@pytest.mark.parametrize("beams", ["0", "1,x", "", "2,,3", "-1"])
def test_widths_are_numbers_from_one_on(made: Workspace, beams: str) -> None:
    code, told = run("search", PROMPT, f"--beams={beams}", root=made.root)
    assert code == 1 and "expected numbers from 1 on" in told


def test_an_answer_that_has_no_room_is_refused(made: Workspace) -> None:
    code, told = run("search", PROMPT, "--max-new-tokens", "95", root=made.root)
    assert code == 1 and "the model's window of 96 (--max-new-tokens)" in told
