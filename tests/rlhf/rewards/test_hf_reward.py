"""`hf:DIRECTORY`: sequence classifiers from elsewhere as a reward."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import PAD, TURNS, VOCABULARY, numbers, tiny_settings, tiny_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    PreTrainedModel,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from rlhf.common.errors import ModelError, SettingsError
from rlhf.common.files import read_json, write_json
from rlhf.engine import make_engine
from rlhf.models.classifier import Answered, Classifier
from rlhf.registry import ALGORITHMS, find
from rlhf.training import loop
from rlhf.training.reward import train as train_reward
from rlhf.workspace import Workspace


def classifier_of(family: str, **changes: Any) -> PreTrainedModel:
    torch.manual_seed(11)
    common = {"vocab_size": VOCABULARY, "num_labels": 1, "pad_token_id": PAD, **changes}
    if family == "gpt2":
        config = GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **common)
        return GPT2ForSequenceClassification(config).eval()
    llama = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.2,
        max_position_embeddings=64,
        **common,
    )
    return LlamaForSequenceClassification(llama).eval()


def saved(
    folder: Path, family: str = "llama", template: str | None = TURNS, **changes: Any
) -> Path:
    classifier_of(family, **changes).save_pretrained(folder)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


def loaded(folder: Path, batch: int = 4) -> Classifier:
    return Classifier.load(folder, make_engine(tiny_settings().engine), batch)


def user(text: str) -> list[Mapping[str, str]]:
    return [{"role": "user", "content": text}]


ANSWERED = [
    Answered(user("w9 w30"), "w12 w13"),
    Answered([*user("w5"), {"role": "assistant", "content": "w6"}, *user("w7")], "w8 w9 w10 w11"),
    Answered(user("w9"), "good", finished=False),
    Answered(user("w9"), "good"),
]


@torch.no_grad()
def slow_score(folder: Path, ids: list[int]) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    return float(model(input_ids=torch.tensor([ids])).logits[0, 0])


# -- one from elsewhere -------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_scores_are_those_of_each_text_alone(tmp_path: Path, family: str) -> None:
    classifier = loaded(saved(tmp_path, family))
    ids = [classifier.encode(one) for one in ANSWERED]
    # the template's tokens, and no end behind what was cut
    assert ids[0] == [2, 9, 30, 1, 2, 12, 13, 1]
    assert ids[1] == [2, 5, 1, 2, 6, 1, 2, 7, 1, 2, 8, 9, 10, 11, 1]
    assert ids[2] == [2, 9, 1, 2, 3] and ids[3] == [2, 9, 1, 2, 3, 1]
    expected = [slow_score(tmp_path, row) for row in ids]
    assert classifier.scores(ANSWERED) == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 4


def test_without_a_template_prompt_and_response_are_a_pair(tmp_path: Path) -> None:
    classifier = loaded(saved(tmp_path, template=None))
    assert classifier.encode(ANSWERED[0]) == [9, 30, 12, 13]
    (score,) = classifier.scores(ANSWERED[:1])
    assert score == pytest.approx(slow_score(tmp_path, [9, 30, 12, 13]), abs=1e-5)


@torch.no_grad()
def test_the_texts_of_a_pair_are_told_apart_as_bert_has_them(tmp_path: Path) -> None:
    """By segments, which a template's one text has not."""
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        initializer_range=0.3,
        pad_token_id=PAD,
        num_labels=1,
    )
    model = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path)
    # of different lengths, so that one is padded
    texts = [("w9 w30", "w12 w13"), ("w5", "w6 w7 w8")]
    expected = []
    for prompt, response in texts:
        ids = torch.tensor([tokenizer(prompt, response)["input_ids"]])
        second = [0] * len(prompt.split()) + [1] * len(response.split())
        logits = model(input_ids=ids, token_type_ids=torch.tensor([second])).logits
        assert abs(float(logits) - float(model(input_ids=ids).logits)) > 0.1
        expected.append(float(logits))
    found = loaded(tmp_path).scores([Answered(user(one), two) for one, two in texts])
    assert found == pytest.approx(expected, abs=1e-5)


def test_without_a_pad_token_texts_are_scored_one_by_one(tmp_path: Path) -> None:
    classifier = loaded(saved(tmp_path, pad_token_id=None))
    expected = [slow_score(tmp_path, classifier.encode(one)) for one in ANSWERED]
    assert classifier.scores(ANSWERED) == pytest.approx(expected, abs=1e-5)


def test_scores_are_not_rounded_in_mixed_precision(tmp_path: Path) -> None:
    saved(tmp_path)
    engine = make_engine(tiny_settings({"engine.precision": "bf16"}).engine)
    mixed = Classifier.load(tmp_path, engine, batch=4).scores(ANSWERED)
    rounded = [float(torch.tensor(score).bfloat16()) for score in mixed]
    assert mixed != rounded
    assert mixed == pytest.approx(loaded(tmp_path).scores(ANSWERED), abs=0.1)


def test_weights_in_bf16_score_in_float32(tmp_path: Path) -> None:
    """As ZeRO keeps models that are only read."""
    classifier = loaded(saved(tmp_path))
    before = classifier.scores(ANSWERED)
    classifier.model.bfloat16()
    scores = classifier.scores(ANSWERED)
    assert scores == pytest.approx(before, abs=0.1)
    assert scores != [float(torch.tensor(score).bfloat16()) for score in scores]


def test_what_does_not_fit_its_window_is_not_judged(tmp_path: Path) -> None:
    classifier = loaded(saved(tmp_path))
    assert classifier.window == 64
    long = Answered(user("w9"), " ".join(["w8"] * 60))
    assert len(classifier.encode(long)) == 65
    first, second, third = classifier.scores([ANSWERED[0], long, ANSWERED[3]])
    assert second is None
    assert [first, third] == pytest.approx(
        [slow_score(tmp_path, classifier.encode(ANSWERED[row])) for row in (0, 3)], abs=1e-5
    )


NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
NO_THOUGHTS = TURNS.replace("m['content']", "m['content'].split('</think>')[-1]")


# raises nothing, and has no place for the message
WITHOUT_SYSTEM = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"


@pytest.mark.parametrize("refuses", [NO_SYSTEM, WITHOUT_SYSTEM])
def test_a_system_message_that_its_template_refuses_is_folded(tmp_path: Path, refuses: str) -> None:
    classifier = loaded(saved(tmp_path, template=refuses + TURNS))
    answered = Answered([{"role": "system", "content": "w40"}, *user("w9 w30")], "w12 w13")
    assert classifier.encode(answered) == [2, 40, 9, 30, 1, 2, 12, 13, 1]


def test_a_cut_response_goes_on_without_the_thoughts_that_its_template_drops(
    tmp_path: Path,
) -> None:
    classifier = loaded(saved(tmp_path, template=NO_THOUGHTS))
    thinking = "<think> w20 </think> w12 w13"
    assert classifier.encode(Answered(user("w9"), thinking)) == [2, 9, 1, 2, 12, 13, 1]
    cut = Answered(user("w9"), thinking, finished=False)
    assert classifier.encode(cut) == [2, 9, 1, 2, 12, 13]
    # nothing but thoughts: it has nothing to read, and the others are scored
    thoughts = Answered(user("w9"), "<think> w20 </think>", finished=False)
    first, second, third = classifier.scores([cut, thoughts, ANSWERED[0]])
    assert second is None
    expected = [slow_score(tmp_path, classifier.encode(one)) for one in (cut, ANSWERED[0])]
    assert [first, third] == pytest.approx(expected, abs=1e-5)


def test_a_dialogue_that_its_template_refuses_is_not_judged(tmp_path: Path) -> None:
    refusing = TURNS.replace("m['content']", "m['content'] + (1 if 'w7' in m['content'] else '')")
    classifier = loaded(saved(tmp_path, template=refusing))
    refused, other = classifier.scores([Answered(user("w7"), "w8"), ANSWERED[0]])
    assert refused is None and other is not None


def test_positions_of_roberta_begin_behind_that_of_the_padding(tmp_path: Path) -> None:
    config = RobertaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=34,
        pad_token_id=PAD,
        num_labels=1,
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    classifier = loaded(tmp_path)
    assert classifier.window == 33
    fits, long = (Answered(user("w9"), " ".join(["w8"] * count)) for count in (32, 33))
    (score, missing) = classifier.scores([fits, long])
    assert score is not None and missing is None


@pytest.mark.parametrize(
    ("template", "changes", "message"),
    [
        ({"rag": TURNS, "tool_use": TURNS}, {}, "no template named 'default'|'rag'"),
        ("{{ raise_exception('never') }}", {}, "never"),
        # ids that have no embedding
        ("{{ 'w63' }}", {"vocab_size": 20}, "index out of range"),
    ],
)
def test_what_cannot_score_any_dialogue_is_refused_before_the_run(
    tmp_path: Path, template: Any, changes: dict[str, Any], message: str
) -> None:
    saved(tmp_path, template=template, **changes)
    with pytest.raises(ModelError, match=rf"it cannot score a dialogue: .*({message})"):
        loaded(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("two labels", "ForSequenceClassification with 2 labels; a reward model has one"),
        ("a language model", "ForCausalLM, whose weights have no head of a classifier$"),
        ("ours", "no head of a classifier; `rlhf export-reward` writes ours in this form"),
        ("without its head", r"lack score\.weight: it is no trained sequence classifier$"),
        ("an unknown type", "not a loadable sequence classifier"),
        ("pickles", r"no \*\.safetensors weights; other formats are not loaded"),
        ("nothing", r"no model here \(config\.json is missing\)"),
    ],
)
def test_what_is_no_reward_model_is_told(
    prepared: Workspace, tmp_path: Path, change: str, message: str
) -> None:
    folder = tmp_path / "model"
    if change == "two labels":
        saved(folder, num_labels=2)
    elif change == "a language model":
        folder = prepared.model("sft")
    elif change == "ours":
        folder = prepared.model("reward")
    elif change == "without its head":
        saved(folder)
        weights = load_file(folder / "model.safetensors")
        del weights["score.weight"]
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    elif change == "an unknown type":
        saved(folder)
        config = read_json(folder / "config.json")
        write_json(folder / "config.json", config | {"model_type": "nobody's"})
    elif change == "pickles":
        saved(folder)
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=message):
        loaded(folder)


def test_a_run_is_paid_by_it_and_keyed_by_its_bytes(workspace: Workspace) -> None:
    saved(workspace.root / "theirs")
    settings = tiny_settings({"ppo.rewards": ["hf:theirs"], "ppo.iterations": 1})
    inputs = find(ALGORITHMS, "ppo-max").inputs(settings)
    assert inputs.paths(workspace)["hf:theirs"] == workspace.root / "theirs"
    loop.train(settings, workspace)
    row = numbers(workspace.steps("ppo"))[0]
    assert row["reward"] == row["reward_hf_theirs"]
    assert row["reward_hf_theirs_std"] > 0 and row["reward_hf_theirs_failures"] == 0.0


@pytest.mark.parametrize("initial", ["sft", "base"])
def test_a_run_with_it_needs_no_reward_model_of_ours(workspace: Workspace, initial: str) -> None:
    """The critic then starts from the SFT model, with a fresh head."""
    saved(workspace.root / "theirs")
    shutil.rmtree(workspace.model("reward"))
    changes = {
        "reward": None,
        "ppo.rewards": ["hf:theirs"],
        "ppo.critic.initial": "sft",
        "ppo.initial": initial,
        "ppo.iterations": 1,
    }
    settings = tiny_settings(changes)
    assert "reward" not in find(ALGORITHMS, "ppo-max").inputs(settings).models
    loop.train(settings, workspace)
    row = numbers(workspace.steps("ppo"))[0]
    assert row["reward"] == row["reward_hf_theirs"] and row["value_loss"] > 0
    with pytest.raises(SettingsError, match="reward: null, so there is no such model to train"):
        train_reward(settings, workspace)
