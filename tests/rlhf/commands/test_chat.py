"""Talking with a model in this process: what is sampled, scored, remembered and shown."""

import dataclasses
from pathlib import Path

import pytest
import torch
from cli_runner import run

from rlhf.commands.chat import Chat, open_chat, printable
from rlhf.common.errors import ModelError
from rlhf.core.seeds import derive_seed
from rlhf.rollout.local import row_uniforms, sample
from rlhf.rollout.sampler import SamplingRule
from rlhf.settings.evaluation import Generation
from rlhf.workspace import OFF_FILE, Workspace

GENERATION = Generation(max_new_tokens=12)


def opened(
    workspace: Workspace,
    generation: Generation = GENERATION,
    *,
    score: bool = False,
    system: str | None = None,
) -> Chat:
    policy = workspace.model("policy")
    return open_chat(policy, workspace, generation, seed=1, score=score, system=system)


def answer(chat: Chat, text: str) -> str:
    return "".join(chat.reply(text))


def test_a_reply_is_what_evaluation_would_sample(trained: Workspace) -> None:
    generation = Generation(max_new_tokens=20, temperature=0.8, top_p=0.9, repetition_penalty=1.1)
    chat = opened(trained, generation)
    pieces = list(chat.reply("Hello"))
    rule = SamplingRule(20, eos_id=2, pad_id=0, temperature=0.8, top_p=0.9, repetition_penalty=1.1)
    uniforms = row_uniforms(20, derive_seed(1, "chat", 0))
    sampled = sample(chat.model, [chat.last_turn.prompt], uniforms[None], rule)
    assert [chat.last_turn.response] == sampled.responses
    decoded = chat.tokenizer.decode(chat.last_turn.response, skip_special_tokens=True)
    assert "".join(pieces) == printable(decoded)
    assert len(pieces) > 2


@torch.no_grad()
def test_greedy_takes_the_likeliest_token(trained: Workspace) -> None:
    greedy = Generation(max_new_tokens=20, temperature=0.0, repetition_penalty=1.0)
    chat = opened(trained, greedy)
    answer(chat, "Hello")
    ids = list(chat.last_turn.prompt)
    for token in chat.last_turn.response:
        assert token == int(chat.model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_turns_are_remembered_and_a_reset_gives_the_same_replies_again(trained: Workspace) -> None:
    chat = opened(trained)
    first = [answer(chat, text) for text in ("Hello", "And then?")]
    assert [message["role"] for message in chat.messages] == ["user", "assistant"] * 2
    assert chat.messages[1]["content"] == first[0].strip()
    chat.reset()
    assert chat.messages == []
    assert [answer(chat, text) for text in ("Hello", "And then?")] == first
    assert answer(dataclasses.replace(chat, seed=2), "Hello") != first[0]


@torch.no_grad()
def test_scores_are_those_of_the_reward_model(trained: Workspace) -> None:
    chat = opened(trained, score=True)
    answer(chat, "Hello")
    ids = torch.tensor([chat.last_turn.prompt + chat.last_turn.response])
    gold = chat.scorers["gold"].model
    hidden = gold.lm.base_model(ids).last_hidden_state
    expected = float(gold.head(hidden[0, -1]))
    assert chat.scores() == {"gold": pytest.approx(expected, abs=1e-5)}


def test_old_turns_are_forgotten_when_the_window_is_full(trained: Workspace) -> None:
    chat = opened(trained, system="Be kind.")
    for _ in range(4):
        answer(chat, "How do I boil an egg?")
    assert chat.forgotten > 0
    assert chat.messages[0] == {"role": "system", "content": "Be kind."}
    assert chat.messages[1]["role"] == "user"
    before = list(chat.messages)
    with pytest.raises(ModelError, match="window of 96"):
        answer(chat, "egg " * 200)
    # what was forgotten stays forgotten, what did not fit was not taken in
    assert chat.messages == before[:1]


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\tc\nd\r\x9be€") == "a[31mb\tc\nde€"


def test_one_shot(trained: Workspace) -> None:
    shot = ("chat", "policy", "--prompt", "Hello", "--max-new-tokens", "8")
    first = run(*shot, root=trained.root)
    assert first[0] == 0
    assert run(*shot, root=trained.root) == first

    directory = str(trained.model("policy"))
    scored = ("chat", directory, *shot[2:], "--temperature", "0", "--score")
    code, output = run(*scored, root=trained.root)
    assert code == 0 and "gold " in output and "reward" not in output


@pytest.mark.parametrize("given", [("--prompt", " "), ("--prompt", "-")])
def test_nothing_to_answer_is_reported_before_a_model_is_read(
    tmp_path: Path, given: tuple[str, str]
) -> None:
    # there is none; standard input is empty
    code, message = run("chat", "policy", *given, root=tmp_path)
    assert code == 1 and "--prompt: nothing to answer" in message


def test_a_missing_model_or_scorer_is_named(trained: Workspace, tmp_path: Path) -> None:
    code, message = run("chat", "sft", "--prompt", "Hello", root=trained.root)
    assert code == 1 and "there are: policy" in message
    directory = str(trained.model("policy"))
    code, message = run("chat", directory, "--prompt", "Hello", "--score", root=tmp_path)
    assert code == 1 and "no reward model" in message
    # what a stage that is off leaves scores nothing, and stands in no other's way
    (tmp_path / "models" / "reward").mkdir(parents=True)
    (tmp_path / "models" / "reward" / OFF_FILE).write_text("{}")
    code, message = run("chat", directory, "--prompt", "Hello", "--score", root=tmp_path)
    assert code == 1 and "--score: no reward model here" in message
    code, message = run("chat", "gold", "--prompt", "Hello", root=tmp_path)
    assert code == 1 and "gold scores answers and gives none" in message
