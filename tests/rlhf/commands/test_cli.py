import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

from rlhf.commands.chat import Chat, open_chat, printable, stream
from rlhf.commands.cli import app
from rlhf.common.errors import ModelError, SettingsError
from rlhf.models.heads import new_scalar_model, save_scalar_model
from rlhf.models.saving import load_causal_lm, save_causal_lm
from rlhf.rollout.sampler import SamplingRule, row_uniforms, sample_responses
from rlhf.settings import load_settings, preset_names, preset_text
from rlhf.settings.evaluation import Generation
from rlhf.workspace import Workspace

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = [
    "How do I boil an egg? Put it in water — ten minutes.",
    "The quick brown fox jumps over the lazy dog 0123456789",
]
GENERATION = Generation(max_new_tokens=12)
RUN = [sys.executable, "-c", "from rlhf.commands.cli import main; main()"]
QUIET = os.environ | {
    "TRANSFORMERS_VERBOSITY": "error",
    "PYTHONWARNINGS": "ignore",
    "TERM": "dumb",
    "OMP_NUM_THREADS": "1",
}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(TEXT, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token=special[0], bos_token=special[1], eos_token=special[2]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = Workspace(tmp_path_factory.mktemp("workspace"))
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=96,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    save_causal_lm(LlamaForCausalLM(config), tokenizer, root.model("policy"))
    save_scalar_model(
        new_scalar_model(root.model("policy"), 3), tokenizer, root.model("gold"), "gold", 1.0
    )
    return root


@pytest.fixture
def talk(workspace: Workspace) -> Chat:
    directory = workspace.model("policy")
    return open_chat(
        directory, workspace, GENERATION, seed=1, greedy=False, score=True, system=None
    )


def run(*arguments: str, root: Path) -> tuple[int, str]:
    """Run a command; a fault comes back as the message that `main` prints."""
    result = CliRunner().invoke(app, ["--workspace", str(root), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 1, f"{type(result.exception).__name__}: {result.exception}"
    return result.exit_code, result.output


def test_presets_are_listed_with_what_they_are(tmp_path: Path) -> None:
    code, output = run("preset", root=tmp_path)
    assert code == 0
    assert all(name in output for name in preset_names())
    assert "SmolLM2" in output


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_written_and_may_be_replaced_by_another(tmp_path: Path, name: str) -> None:
    for each in ("laptop", name):
        assert run("preset", each, root=tmp_path)[0] == 0
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == preset_text(name)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_edited_settings_are_not_overwritten_without_force(tmp_path: Path) -> None:
    run("preset", "laptop", root=tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(
        params.read_text(encoding="utf-8").replace("seed: 1", "seed: 2"), encoding="utf-8"
    )
    code, message = run("preset", "laptop", root=tmp_path)
    assert code == 1 and "--force" in message and message.startswith(SettingsError.__name__)
    assert "seed: 2" in params.read_text(encoding="utf-8")
    assert run("preset", "laptop", "--force", root=tmp_path)[0] == 0
    assert params.read_text(encoding="utf-8") == preset_text("laptop")


def test_a_variant_is_a_preset_with_other_details(tmp_path: Path) -> None:
    assert run("preset", "laptop", "--variant", "vanilla", root=tmp_path)[0] == 0
    ppo = load_settings(tmp_path / "params.yaml").ppo
    assert (ppo.kl, ppo.ptx, ppo.value_clip, ppo.reward.normalise, ppo.reward.clip) == (None,) * 5
    assert (ppo.surrogate_clip, ppo.optimizer.max_gradient_norm) == (0.2, 1.0)  # PPO itself
    assert (
        "laptop *" in run("preset", root=tmp_path)[1]
        and "laptop, vanilla" in run("preset", root=tmp_path)[1]
    )
    assert run("preset", "tiny", root=tmp_path)[0] == 0  # nothing of one's own is lost
    code, message = run("preset", "tiny", "--variant", "reinforce", root=tmp_path)
    assert (
        code == 1
        and "no variant 'reinforce'; there are: ppo-ptx, ppo-max, ppo-penalty, vanilla" in message
    )


def test_an_unknown_preset_names_the_known_ones(tmp_path: Path) -> None:
    code, message = run("preset", "huge", root=tmp_path)
    assert code == 1 and "laptop" in message


def test_show_has_key_metrics_and_says_what_is_missing(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    values = {"accuracy": 0.65432, "margin_mean": 0.1, "seconds": 12.0}
    (metrics / "reward.json").write_text(json.dumps(values), encoding="utf-8")
    (metrics / "ppo.json").write_text('{"collapsed": false}', encoding="utf-8")
    code, output = run("show", root=tmp_path)
    assert code == 0
    assert "0.6543" in output and "margin_mean" not in output
    assert "collapsed" in output and "no" in output
    assert "not run yet" in output
    assert "margin_mean" in run("show", "--all", root=tmp_path)[1]


def test_show_names_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "sft.json").write_text("{", encoding="utf-8")
    code, message = run("show", root=tmp_path)
    assert code == 1 and "sft.json" in message


def test_doctor_needs_valid_settings(tmp_path: Path) -> None:
    code, output = run("doctor", "--quick", "--json", root=tmp_path)
    found = json.loads(output[output.index("{") :])
    faults = [check["name"] for check in found["checks"] if check["state"] == "fault"]
    assert code == 1 and "settings" in faults and not found["healthy"]
    run("preset", "laptop", root=tmp_path)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "fetch.json").write_text("{}", encoding="utf-8")
    code, output = run("doctor", "--quick", "--json", root=tmp_path)
    found = json.loads(output[output.index("{") :])
    assert {check["name"]: check["state"] for check in found["checks"]}["settings"] == "ok"
    assert found["stages"]["fetch"] and not found["stages"]["sft"]
    code, output = run("doctor", "--quick", root=tmp_path)
    assert "stages done: fetch" in output
    assert code == (0 if found["healthy"] else 1)


def test_streaming_follows_the_rule_of_evaluation(workspace: Workspace) -> None:
    model = load_causal_lm(workspace.model("policy"))
    rule = SamplingRule(20, eos_id=2, pad_id=0, temperature=0.8, top_p=0.9, repetition_penalty=1.1)
    uniforms = row_uniforms(20, 1, "test")
    prompt = [1, 40, 41, 42, 50]
    assert [list(stream(model, prompt, uniforms, rule))] == sample_responses(
        model, [prompt], uniforms[None], rule
    )


def test_greedy_takes_the_likeliest_token(workspace: Workspace) -> None:
    model = load_causal_lm(workspace.model("policy"))
    rule = SamplingRule(6, eos_id=2, pad_id=0)
    ids = [1, 40, 41]
    for token in stream(model, [1, 40, 41], row_uniforms(6, 1), rule, greedy=True):
        with torch.no_grad():
            assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_turns_are_kept_and_a_reset_gives_the_same_replies_again(talk: Chat) -> None:
    first = ["".join(talk.reply(text)) for text in ("Hello", "And then?")]
    assert [message["role"] for message in talk.messages] == ["user", "assistant"] * 2
    assert talk.messages[1]["content"] == first[0].strip()
    talk.reset()
    assert talk.messages == []
    assert ["".join(talk.reply(text)) for text in ("Hello", "And then?")] == first
    talk.reset()
    talk.seed = 2
    assert "".join(talk.reply("Hello")) != first[0]


def test_scores_are_those_of_the_reward_model(talk: Chat) -> None:
    "".join(talk.reply("Hello"))
    prompt, response = talk._last
    hidden = talk.scorers["gold"].lm.base_model(torch.tensor([prompt + response])).last_hidden_state
    expected = float(talk.scorers["gold"].head(hidden[0, -1]).detach())
    assert talk.scores() == {"gold": pytest.approx(expected, abs=1e-5)}


def test_old_turns_are_forgotten_when_the_window_is_full(workspace: Workspace) -> None:
    talk = open_chat(
        workspace.model("policy"),
        workspace,
        GENERATION,
        seed=1,
        greedy=False,
        score=False,
        system="Be kind.",
    )
    for _ in range(4):
        "".join(talk.reply("How do I boil an egg?"))
    assert talk.forgotten > 0
    assert talk.messages[0] == {"role": "system", "content": "Be kind."}
    assert talk.messages[1]["role"] == "user"
    before = list(talk.messages)
    with pytest.raises(ModelError, match="window of 96"):
        "".join(talk.reply("egg " * 200))
    assert (
        talk.messages == before[:1]
    )  # what was forgotten stays forgotten, what did not fit was not taken in


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b[31mb\x07\tc\nd\r\x9be€") == "a[31mb\tc\nde€"


def test_one_shot(workspace: Workspace) -> None:
    again = [
        run("chat", "policy", "--prompt", "Hello", "--max-new-tokens", "8", root=workspace.root)
        for _ in range(2)
    ]
    assert again[0] == again[1] and again[0][0] == 0
    directory = str(workspace.model("policy"))
    shot = (
        "chat",
        directory,
        "--prompt",
        "Hello",
        "--temperature",
        "0",
        "--score",
        "--max-new-tokens",
        "8",
    )
    code, output = run(*shot, root=workspace.root)
    assert code == 0 and "gold " in output and "reward" not in output


@pytest.mark.parametrize("given", [("--prompt", " "), ("--prompt", "-")])
def test_nothing_to_answer_is_told_before_a_model_is_read(
    tmp_path: Path, given: tuple[str, str]
) -> None:
    code, message = run(
        "chat", "policy", *given, root=tmp_path
    )  # there is none; standard input is empty
    assert code == 1 and "--prompt: nothing to answer" in message


def test_a_missing_model_or_scorer_is_told(workspace: Workspace, tmp_path: Path) -> None:
    code, message = run("chat", "sft", "--prompt", "Hello", root=workspace.root)
    assert code == 1 and "there are: policy" in message
    directory = str(workspace.model("policy"))
    code, message = run("chat", directory, "--prompt", "Hello", "--score", root=tmp_path)
    assert code == 1 and "no reward model" in message
    code, message = run("chat", "gold", "--prompt", "Hello", root=tmp_path)
    assert code == 1 and "gold scores answers and gives none" in message


class Terminal:
    """The command on a pseudo-terminal."""

    def __init__(self, arguments: list[str]) -> None:
        master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [*RUN, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=QUIET,
            start_new_session=True,
        )
        os.close(slave)
        self.master = master
        self.seen = ""

    def until(self, text: str, count: int = 1, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while self.seen.count(text) < count:
            ready, _, _ = select.select(
                [self.master], [], [], max(0.0, deadline - time.monotonic())
            )
            assert ready, f"no {text!r} in {self.seen!r}"
            try:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            except OSError:  # the other end was closed
                assert self.seen.count(text) >= count, self.seen

    def type(self, line: str) -> None:
        os.write(self.master, line.encode() + b"\n")

    def interrupt(self, attempts: int = 5) -> int:
        """Send SIGINT until the process has ended: Python misses one that comes just before it waits for a line.

        The next one comes late: one that met the interpreter on its way out would end it by the signal, not by 130.
        """
        for _ in range(attempts):
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
                break
        os.close(self.master)
        return self.process.wait(0)


@pytest.fixture
def terminal(workspace: Workspace) -> Iterator[Terminal]:
    session = Terminal(
        ["-C", str(workspace.root), "chat", "policy", "--max-new-tokens", "6", "--score"]
    )
    yield session
    if session.process.poll() is None:
        session.process.kill()
        session.process.wait()


def test_a_dialogue_on_a_terminal_and_its_interruption(terminal: Terminal) -> None:
    terminal.until("> ")
    terminal.type("/help")
    terminal.until("/reset begins anew", count=2)
    terminal.type("Hello")
    terminal.until("gold ")
    terminal.type("egg " * 100)
    terminal.until("error: the message takes")
    terminal.type("/reset")
    terminal.until("(forgotten)")
    terminal.type("Hello")
    terminal.until("gold ", count=2)
    scores = [line for line in terminal.seen.splitlines() if "gold " in line]
    assert scores[0] == scores[1]
    terminal.until("> ", count=6)
    assert terminal.interrupt() == 130


def test_faults_and_the_version_from_a_real_process(tmp_path: Path) -> None:
    done = subprocess.run(
        [*RUN, "-C", str(tmp_path), "preset", "huge"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: no preset 'huge'") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_help_and_version(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(word in result.output for word in ("preset", "chat", "doctor", "show", "dvc repro"))
    assert CliRunner().invoke(app, ["--version"]).output.startswith("rlhf ")
