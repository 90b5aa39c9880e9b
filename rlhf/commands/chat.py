"""Talking with a model: dialogue, streamed sampling and scores, without control characters."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.common.errors import ModelError
from rlhf.core.reach import longest_text
from rlhf.core.seeds import derive_seed
from rlhf.core.tokenizers import rendered_prompt
from rlhf.models.heads import load_scalar_model
from rlhf.models.saving import load_answering_tokenizer, load_causal_lm
from rlhf.models.scoring import ResponseScorer
from rlhf.rollout.local import decode, row_uniforms
from rlhf.rollout.sampler import SamplingRule, answering_rule
from rlhf.settings.evaluation import Generation
from rlhf.workspace import OFF_FILE, Workspace

CHAT_MODELS = ("base", "sft", "dpo", "policy")
SCORERS = ("reward", "gold")

# what a decoder makes of bytes that are no whole character
_INCOMPLETE = "\ufffd"
_NO_WINDOW = 1 << 30


def model_directory(name: str, workspace: Workspace) -> Path:
    """The directory of a stage's model, or of a path; raises ModelError with the models there are."""
    directory = workspace.model(name) if name in CHAT_MODELS else Path(name)
    if directory.is_dir():
        return directory
    if name in SCORERS:
        raise ModelError(
            f"{name} scores answers and gives none; talk to policy with --score to see its scores"
        )
    known = "no stage has written one yet (dvc repro)"
    present = [stage for stage in CHAT_MODELS if workspace.model(stage).is_dir()]
    if present:
        known = f"there are: {', '.join(present)}"
    raise ModelError(f"{directory}: no such model; {known}, or give the path of a model directory")


@dataclass(frozen=True)
class Turn:
    """A prompt and the reply to it, as token ids."""

    prompt: list[int]
    response: list[int]


@dataclass
class Chat:
    """One dialogue.

    seed: it and the number of the turn name the stream of uniform numbers of each reply
    forgotten: how many messages no longer fit into the model's window
    last_turn: what the scorers score
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    generation: Generation
    seed: int
    system: str | None = None
    scorers: dict[str, ResponseScorer] = field(default_factory=dict)
    messages: list[dict[str, str]] = field(default_factory=list)
    forgotten: int = 0
    last_turn: Turn = field(default_factory=lambda: Turn([], []))
    _turn: int = 0

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the dialogue but for the system prompt.

        The same seed then gives the same replies again.
        """
        self.messages = []
        if self.system is not None:
            self.messages.append({"role": "system", "content": self.system})
        self._turn = 0
        self.forgotten = 0

    def reply(self, text: str) -> Iterator[str]:
        """Answer the user's `text`, piece by piece; the dialogue then holds both turns."""
        self.messages.append({"role": "user", "content": text})
        prompt = self._fitting_prompt()
        stream = derive_seed(self.seed, "chat", self._turn)
        uniforms = row_uniforms(self.generation.max_new_tokens, stream)
        response: list[int] = []
        shown = ""
        for drawn in decode(self.model, [prompt], uniforms[None], self._rule()):
            response.append(int(drawn.tokens))
            answer = self._text(response)
            # a character may take several tokens
            if not answer.endswith(_INCOMPLETE):
                yield answer[len(shown) :]
                shown = answer
        # what was held back
        answer = self._text(response)
        yield answer[len(shown) :]

        self.messages.append({"role": "assistant", "content": answer.strip()})
        self.last_turn = Turn(prompt, response)
        self._turn += 1

    def scores(self) -> dict[str, float]:
        """The score that each reward model gives the last reply."""
        scores = {}
        for name, scorer in self.scorers.items():
            scores[name] = scorer.scores([self.last_turn.prompt], [self.last_turn.response])[0]
        return scores

    def _text(self, response: list[int]) -> str:
        return printable(str(self.tokenizer.decode(response, skip_special_tokens=True)))

    def _rule(self) -> SamplingRule:
        return answering_rule(
            self.model,
            self.tokenizer,
            max_new_tokens=self.generation.max_new_tokens,
            temperature=self.generation.temperature,
            top_p=self.generation.top_p,
            repetition_penalty=self.generation.repetition_penalty,
            greedy=self.generation.temperature == 0,
        )

    def _fitting_prompt(self) -> list[int]:
        """Prompt ids that leave room for the reply; the oldest exchanges are forgotten for it."""
        window = longest_text(self.model.config) or _NO_WINDOW
        room = window - self.generation.max_new_tokens
        first = 0 if self.system is None else 1
        while True:
            text = rendered_prompt(self.tokenizer, self.messages)
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if len(ids) <= room:
                return ids
            # nothing is left to forget but the message itself
            if len(self.messages) <= first + 1:
                self.messages.pop()
                raise ModelError(
                    f"the message takes {len(ids)} tokens; the model's window of {window} leaves "
                    f"{room} beside a reply of {self.generation.max_new_tokens} (--max-new-tokens)"
                )
            del self.messages[first : first + 2]
            self.forgotten += 2


def open_chat(
    directory: Path,
    workspace: Workspace,
    generation: Generation,
    *,
    seed: int,
    score: bool,
    system: str | None,
) -> Chat:
    """Load a model for talking, in float32, and with `score` the workspace's reward models."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    scorers = _load_scorers(workspace, device) if score else {}
    tokenizer = load_answering_tokenizer(directory)
    model = load_causal_lm(directory)
    # transformers types it for strings
    model.to(device)  # type: ignore[arg-type]
    return Chat(model, tokenizer, generation, seed, system=system, scorers=scorers)


def _load_scorers(workspace: Workspace, device: torch.device) -> dict[str, ResponseScorer]:
    scorers = {}
    for name in SCORERS:
        directory = workspace.model(name)
        # a stage that is off leaves a note
        if directory.is_dir() and not (directory / OFF_FILE).is_file():
            model = load_scalar_model(directory)
            model.to(device).eval()
            scorers[name] = ResponseScorer(model, device)
    if not scorers:
        raise ModelError(
            "--score: no reward model here; the stages reward and gold write them (dvc repro reward)"
        )
    return scorers


def printable(text: str) -> str:
    """Text without the control characters by which a model could drive the terminal."""
    return "".join(
        character for character in text if character in "\n\t" or character.isprintable()
    )
