"""Talking with a model: dialogue, streamed sampling and scores; what it says is shown without control characters."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.common.errors import ModelError
from rlhf.models.heads import load_scalar_model
from rlhf.models.saving import load_causal_lm, load_tokenizer
from rlhf.models.scoring import ResponseScorer
from rlhf.rollout.local import decode, row_uniforms
from rlhf.rollout.sampler import SamplingRule
from rlhf.settings.evaluation import Generation
from rlhf.workspace import Workspace

TALKERS = ("base", "sft", "policy")
SCORERS = ("reward", "gold")
DEFAULT_GENERATION = Generation(max_new_tokens=128)


def model_directory(name: str, workspace: Workspace) -> Path:
    """The directory of a stage's model or of a path; raises ModelError that says which models there are."""
    directory = workspace.model(name) if name in TALKERS else Path(name)
    if name in SCORERS and not directory.is_dir():
        raise ModelError(
            f"{name} scores answers and gives none; talk to policy with --score to see its scores"
        )
    if not directory.is_dir():
        present = [stage for stage in TALKERS if workspace.model(stage).is_dir()]
        there = (
            f"there are: {', '.join(present)}"
            if present
            else "no stage has written one yet (dvc repro)"
        )
        raise ModelError(
            f"{directory}: no such model; {there}, or give the path of a model directory"
        )
    return directory


@dataclass
class Chat:
    """One dialogue. `seed` and the number of the turn name the stream of uniform numbers of each reply."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    generation: Generation
    seed: int
    greedy: bool = False
    system: str | None = None
    scorers: dict[str, ResponseScorer] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    forgotten: int = 0  # messages that no longer fit into the model's window
    _last: tuple[list[int], list[int]] = field(default=([], []))
    _turn: int = 0

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the dialogue but for the system prompt; the same seed then gives the same replies again."""
        self.messages = (
            [{"role": "system", "content": self.system}] if self.system is not None else []
        )
        self._turn = self.forgotten = 0

    def reply(self, text: str) -> Iterator[str]:
        """Answer the user's `text`, piece by piece; the dialogue then holds both turns."""
        self.messages.append({"role": "user", "content": text})
        prompt = self._fit()
        uniforms = row_uniforms(self.generation.max_new_tokens, self.seed, "chat", self._turn)
        response: list[int] = []
        said = ""
        for drawn in decode(self.model, [prompt], uniforms[None], self._rule()):
            response.append(int(drawn.tokens))
            decoded = printable(str(self.tokenizer.decode(response, skip_special_tokens=True)))
            if not decoded.endswith("\ufffd"):  # else a character is not whole yet
                yield decoded[len(said) :]
                said = decoded
        decoded = printable(str(self.tokenizer.decode(response, skip_special_tokens=True)))
        yield decoded[len(said) :]
        self.messages.append({"role": "assistant", "content": decoded.strip()})
        self._last = (prompt, response)
        self._turn += 1

    def scores(self) -> dict[str, float]:
        """What each reward model says of the last reply."""
        prompt, response = self._last
        return {
            name: scorer.scores([prompt], [response])[0] for name, scorer in self.scorers.items()
        }

    def _rule(self) -> SamplingRule:
        return SamplingRule(
            max_new_tokens=self.generation.max_new_tokens,
            eos_id=int(self.tokenizer.eos_token_id),
            pad_id=int(self.tokenizer.pad_token_id or 0),
            temperature=self.generation.temperature,
            top_p=self.generation.top_p,
            repetition_penalty=self.generation.repetition_penalty,
            greedy=self.greedy,
        )

    def _fit(self) -> list[int]:
        """Prompt ids; the oldest exchanges are forgotten when the window is too small for them and the reply."""
        window = int(getattr(self.model.config, "max_position_embeddings", 0)) or 1 << 30
        room = window - self.generation.max_new_tokens
        while True:
            ids: Any = self.tokenizer.apply_chat_template(
                self.messages, add_generation_prompt=True, return_dict=False
            )
            if len(ids) <= room:
                return list(ids)
            first = 1 if self.system is not None else 0
            if len(self.messages) <= first + 1:
                self.messages.pop()
                raise ModelError(
                    f"the message takes {len(ids)} tokens; the model's window of {window} leaves {room} beside a reply of "
                    f"{self.generation.max_new_tokens} (--max-new-tokens)"
                )
            del self.messages[first : first + 2]
            self.forgotten += 2


def open_chat(
    directory: Path,
    workspace: Workspace,
    generation: Generation,
    *,
    seed: int,
    greedy: bool,
    score: bool,
    system: str | None,
) -> Chat:
    """Load a model for talking, in float32, and with `score` the reward models that the workspace has."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorers: dict[str, ResponseScorer] = {}
    if score:
        there = [name for name in SCORERS if workspace.model(name).is_dir()]
        if not there:
            raise ModelError(
                "--score: no reward model here; the stages reward and gold write them (dvc repro reward)"
            )
        for name in there:
            scorer = load_scalar_model(workspace.model(name))
            scorer.to(device).eval()
            scorers[name] = ResponseScorer(scorer, device)
    tokenizer = load_tokenizer(directory)
    if tokenizer.chat_template is None:
        raise ModelError(
            f"{directory}: the tokenizer has no chat template, so turns cannot be told apart"
        )
    model = load_causal_lm(directory)
    model.to(device)  # type: ignore[arg-type] # transformers types it for strings
    return Chat(model, tokenizer, generation, seed, greedy=greedy, system=system, scorers=scorers)


def printable(text: str) -> str:
    """Text without the control characters by which a model could drive the terminal."""
    return "".join(
        character for character in text if character in "\n\t" or character.isprintable()
    )
