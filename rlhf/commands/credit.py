"""Which tokens a DPO model gives credit for an answer: beta log(pi / pi_ref), token by token.

It is the optimal advantage of each token (arXiv 2404.12358, eq. 10): the credit up to a shaping of
rewards that no preference tells apart.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batches.padding import Ids, TokenBatch, pad_responses
from rlhf.batches.tables import read_rows_of
from rlhf.commands.chat import printable
from rlhf.common.errors import DataError
from rlhf.data.records import Message
from rlhf.data.tokens import ChatEncoder
from rlhf.engine.single import TorchEngine
from rlhf.models.backbone import hidden_states, target_logits, target_tokens, token_logprobs
from rlhf.models.dpo import NOTE_FILE, load_dpo_model, read_dpo_note
from rlhf.models.saving import load_causal_lm
from rlhf.ppo.dpo import implicit_rewards
from rlhf.settings.training import EngineSettings
from rlhf.training.sources import transcript
from rlhf.workspace import Workspace

_HERE = Path(__file__).parent
_SPLIT = "test"
# what a decoder makes of bytes that are no whole character
_INCOMPLETE = "\ufffd"
_NO_LIMIT = 1 << 20


@dataclass(frozen=True)
class TokenCredit:
    """A token as text, its credit, and the two log-probabilities that it is made of."""

    text: str
    credit: float
    logprob: float
    reference_logprob: float


@dataclass(frozen=True)
class Answer:
    """An answer's tokens with their credit; the title says which answer it is."""

    title: str
    tokens: list[TokenCredit]

    @property
    def total(self) -> float:
        """The implicit reward of the whole."""
        return sum(token.credit for token in self.tokens)


@dataclass(frozen=True)
class PromptWithAnswers:
    """What is looked at: a prompt for readers and as ids, and answers by title."""

    prompt: str
    prompt_ids: Ids
    answers: Mapping[str, Ids]


# -- what is looked at -------------------------------------------------------------------------------


def dialogue_of_row(workspace: Workspace, row: int) -> PromptWithAnswers:
    """A pair of the test split, rows from 0; raises DataError for one that is not there."""
    table = read_rows_of(workspace, "preferences", _SPLIT)
    if not 0 <= row < len(table):
        problem = f"split {_SPLIT} has the rows 0 to {len(table) - 1}"
        raise DataError(workspace.prepared / "preferences.parquet", f"--row {row}: {problem}")
    pair = table.iloc[row]
    answers = {name: list(map(int, pair[f"{name}_ids"])) for name in ("chosen", "rejected")}
    text = transcript(json.loads(pair["messages"]))
    return PromptWithAnswers(text, list(map(int, pair["prompt_ids"])), answers)


def dialogue_of_text(
    tokenizer: PreTrainedTokenizerBase, prompt: str, response: str
) -> PromptWithAnswers:
    """A user's message and an answer to it, as tokens in the way that `prepare` makes them."""
    encoder = ChatEncoder(tokenizer, _NO_LIMIT, _NO_LIMIT)
    messages = (Message("user", prompt),)
    (encoded,) = encoder.prompts([messages])
    assert encoded is not None
    (answer,) = encoder.responses([messages], [response])
    return PromptWithAnswers(prompt, encoded.ids, {"answer": answer.ids})


# -- credit ------------------------------------------------------------------------------------------


def load_pair(
    directory: Path, reference: Path, beta: float | None
) -> tuple[PreTrainedModel, PreTrainedModel, float]:
    """A model, its reference, and beta, which a model of stage dpo has noted; raises ModelError.

    For another model beta must be given, and any reference will do.
    """
    if beta is None or (directory / NOTE_FILE).is_file():
        note = read_dpo_note(directory)
        model, scale = load_dpo_model(directory, reference), note.beta if beta is None else beta
    else:
        model, scale = load_causal_lm(directory), beta
    engine = TorchEngine(EngineSettings())
    return engine.frozen(model), engine.frozen(load_causal_lm(reference)), scale


@torch.no_grad()
def credited(
    dialogue: PromptWithAnswers,
    model: PreTrainedModel,
    reference: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    beta: float,
) -> list[Answer]:
    """The credit of each token of each answer."""
    found = []
    for title, ids in dialogue.answers.items():
        batch = pad_responses([dialogue.prompt_ids], [ids], pad_id=0).to(model.device)
        ours, theirs = (_logprobs(one, batch) for one in (model, reference))
        numbers = (implicit_rewards(ours, theirs, beta), ours, theirs)
        columns = zip(token_texts(tokenizer, ids), *(one.tolist() for one in numbers), strict=True)
        found.append(Answer(title, [TokenCredit(*column) for column in columns]))
    return found


def _logprobs(model: PreTrainedModel, batch: TokenBatch) -> Tensor:
    """log p of each token of the answer, [N], at temperature 1."""
    logits = target_logits(model, hidden_states(model, batch), batch)
    return token_logprobs(logits, target_tokens(batch))


def token_texts(tokenizer: PreTrainedTokenizerBase, ids: Ids) -> list[str]:
    """What each token adds to the text; "" for one that is a part of a character, which the last part has."""
    texts, shown = [], ""
    for end in range(1, len(ids) + 1):
        text = str(tokenizer.decode(list(ids[:end]), skip_special_tokens=False))
        if text.endswith(_INCOMPLETE) and end < len(ids):
            texts.append("")
            continue
        texts.append(printable(text[len(shown) :]))
        shown = text
    return texts


# -- the page ----------------------------------------------------------------------------------------


def credit_page(
    dialogue: PromptWithAnswers,
    answers: Sequence[Answer],
    model: Path,
    reference: Path,
    beta: float,
) -> str:
    """One self-contained page: tokens coloured by credit, numbers on hover; text is escaped."""
    credits = [abs(token.credit) for answer in answers for token in answer.tokens]
    # a model that is its reference gives no credit at all
    largest = max(credits) or 1.0
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["signed"] = _signed
    return environment.get_template("credit.html").render(
        prompt=printable(dialogue.prompt),
        answers=answers,
        model=model,
        reference=reference,
        beta=beta,
        largest=largest,
    )


def _signed(value: float) -> str:
    return f"{value:+.3f}"
