"""Reward models as transformers knows them: sequence classifiers with one label, asked by text.

Our own reward models are written in that form by `rlhf.models.export`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.common.errors import ModelError
from rlhf.core.reach import longest_text
from rlhf.core.tokenizers import (
    folded,
    read_tokenizer,
    refuse_without_system,
    template_errors,
    without_thoughts,
)
from rlhf.engine import Engine
from rlhf.workspace import HEAD_FILE

# of an exported model's configuration: what is added to its score; its classifier has no bias
SCORE_BIAS = "score_bias"
# what a tokenizer without a limit states is larger than any window
_NO_LIMIT = 10**9
# how the names of models end that are no classifiers, unless the weights have a head of one
_OTHER_MODELS = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration")

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class Answered:
    """A dialogue and the response to it; finished: whether the response ended by itself."""

    messages: Messages
    response: str
    finished: bool = True


@dataclass(frozen=True)
class Classifier:
    """A frozen classifier that scores texts in batches, by its own tokenizer and chat template."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    batch: int
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext

    @classmethod
    def load(cls, directory: Path, engine: Engine, batch: int) -> "Classifier":
        """Read it from a Hugging Face directory; raises ModelError that says what is wrong with it."""
        model = engine.frozen(load_classifier(directory))
        tokenizer = read_tokenizer(directory)
        tokenizer.padding_side = "right"
        classifier = cls(model, tokenizer, batch, engine.autocast)
        classifier._try(directory)
        return classifier

    @torch.no_grad()
    def _try(self, directory: Path) -> None:
        """Score one dialogue: what fails on this would fail on each, once the run is under way."""
        try:
            (score,) = self._forward(
                [self._tokenised(Answered([{"role": "user", "content": "Why?"}], "So."))]
            )
        # whatever model, tokenizer and template raise, all of which are others'
        except Exception as error:
            raise ModelError(f"{directory}: it cannot score a dialogue: {error}") from error
        if not math.isfinite(score):
            raise ModelError(f"{directory}: its score of a dialogue is {score}")

    @property
    def window(self) -> int:
        """The most tokens that it reads."""
        stated = longest_text(self.model.config) or _NO_LIMIT
        return min(stated, _places(self.model), int(self.tokenizer.model_max_length))

    @torch.no_grad()
    def scores(self, answered: Sequence[Answered]) -> list[float | None]:
        """A score each, None for a text that is longer than the window, or that the template refuses."""
        texts, window = [self._readable(one) for one in answered], self.window
        fitting = [row for row, text in enumerate(texts) if 0 < len(text.ids) <= window]
        # texts of like length side by side: less padding
        fitting.sort(key=lambda row: len(texts[row].ids))
        scores: list[float | None] = [None] * len(texts)
        for start in range(0, len(fitting), self._at_once):
            rows = fitting[start : start + self._at_once]
            for row, score in zip(rows, self._forward([texts[row] for row in rows]), strict=True):
                scores[row] = score
        return scores

    def encode(self, answered: Answered) -> list[int]:
        """The tokens of a dialogue with its response.

        By the chat template where there is one: a response that was cut stays open. Else as the pair of
        texts that classifiers without one are trained on. Raises TemplateError.
        """
        return self._tokenised(answered).ids

    def _tokenised(self, answered: Answered) -> "_Tokens":
        if self.tokenizer.chat_template is None:
            prompt = _prompt_text(answered.messages)
            pair = self.tokenizer(prompt, answered.response, return_token_type_ids=True)
            return _Tokens(pair["input_ids"], pair["token_type_ids"])
        text = self._rendered(answered)
        # the template has put them there
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return _Tokens(ids, [0] * len(ids))

    def _readable(self, answered: Answered) -> "_Tokens":
        """The tokens, none of a dialogue that the template refuses."""
        try:
            return self._tokenised(answered)
        except TemplateError:
            return _Tokens([], [])

    def _rendered(self, answered: Answered) -> str:
        """By the template: of several ways the first that it does not refuse."""
        messages = [dict(message) for message in answered.messages]
        # of an empty response nothing could be continued
        cut = not answered.finished and bool(answered.response.strip())
        contents = [answered.response]
        if cut and (kept := without_thoughts(answered.response)):
            # a template that leaves thoughts out cannot go on from a text that has some
            contents.append(kept)
        refusals: list[TemplateError] = []
        for content, before in product(contents, (messages, folded(messages))):
            dialogue = [*before, {"role": "assistant", "content": content}]
            try:
                with template_errors():
                    text = str(
                        self.tokenizer.apply_chat_template(
                            dialogue, tokenize=False, continue_final_message=cut
                        )
                    )
                    refuse_without_system(text, dialogue)
                    return text
            except TemplateError as error:
                refusals.append(error)
        raise refusals[0]

    @property
    def _at_once(self) -> int:
        # without a pad token transformers cannot tell where a text of several ends
        return self.batch if self.model.config.pad_token_id is not None else 1

    def _forward(self, rows: Sequence["_Tokens"]) -> list[float]:
        pad, device = int(self.model.config.pad_token_id or 0), self.model.device
        inputs = {
            "input_ids": _padded([row.ids for row in rows], pad),
            "attention_mask": _padded([[1] * len(row.ids) for row in rows], 0),
        }
        # BERT and its kin add an embedding of the segment
        if (getattr(self.model.config, "type_vocab_size", None) or 0) > 1:
            inputs["token_type_ids"] = _padded([row.segments for row in rows], 0)
        with self.autocast():
            logits = self.model(**{name: value.to(device) for name, value in inputs.items()}).logits
        bias = float(getattr(self.model.config, SCORE_BIAS, 0.0))
        scores: list[float] = (logits.squeeze(-1).float() + bias).tolist()
        return scores


@dataclass(frozen=True)
class _Tokens:
    """A text's tokens; segments: of a pair, 0 for those of the first text and 1 for those of the second."""

    ids: list[int]
    segments: list[int]


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def check_classifier(directory: Path) -> str:
    """Refuse what is no classifier of one label, by its files; gives the name of its architecture.

    Whether the weights have all of it is seen where they are loaded. Raises ModelError.
    """
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: no model here (config.json is missing)")
    if not any(directory.glob("*.safetensors")):
        raise ModelError(f"{directory}: no *.safetensors weights; other formats are not loaded")
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
        name = ", ".join(config.architectures or ()) or f"a model of type {config.model_type}"
        is_other = name.endswith(_OTHER_MODELS) and not _has_head(directory)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{directory}: not a loadable sequence classifier: {error}") from error
    hint = "; `rlhf export-reward` writes ours in this form" if is_ours(directory) else ""
    if is_other:
        raise ModelError(f"{directory}: {name}, whose weights have no head of a classifier{hint}")
    if config.num_labels != 1:
        raise ModelError(
            f"{directory}: {name} with {config.num_labels} labels; a reward model has one "
            "(num_labels of its configuration). A function of your own can make one number of several: "
            f"python:FILE:FUNCTION{hint}"
        )
    return name


def _has_head(directory: Path) -> bool:
    """Whether weights are named as those of a classifier's head."""
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "pt") as tensors:
            names = tensors.keys()
        if any(name.startswith(("score", "classif")) for name in names):
            return True
    return False


def load_classifier(directory: Path) -> PreTrainedModel:
    """A sequence classifier with one label; raises ModelError for anything else."""
    check_classifier(directory)
    try:
        model, report = AutoModelForSequenceClassification.from_pretrained(
            directory,
            dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{directory}: not a loadable sequence classifier: {error}") from error
    # transformers would go on with random ones
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{directory}: its weights lack {', '.join(missing[:3])}: it is no trained sequence classifier"
        )
    _keep_head_in_float32(model)
    found: PreTrainedModel = model.eval()
    return found


class _Float32Head(nn.Module):
    """A linear head that autocast does not round to three digits, as our own."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] -> [..., 1]."""
        bias = self.linear.bias
        with torch.autocast(hidden.device.type, enabled=False):
            # ZeRO keeps weights in bf16
            return nn.functional.linear(
                hidden.float(),
                self.linear.weight.float(),
                None if bias is None else bias.float(),
            )


def _keep_head_in_float32(model: PreTrainedModel) -> None:
    # the classifiers of encoders have more layers there, and are left as they are
    heads = [name for name, part in model.named_children() if isinstance(part, nn.Linear)]
    for name in heads:
        linear = model.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        setattr(model, name, _Float32Head(linear))


def _places(model: PreTrainedModel) -> int:
    """The positions that texts can take: those of RoBERTa and its kin begin behind that of the padding."""
    found = [
        part.num_embeddings - part.padding_idx - 1
        for name, part in model.named_modules()
        if name.endswith("position_embeddings")
        and isinstance(part, nn.Embedding)
        and part.padding_idx is not None
    ]
    return min(found, default=_NO_LIMIT)


def is_ours(directory: Path) -> bool:
    """Whether a directory holds a reward model of ours: a language model with a head beside it."""
    return (directory / HEAD_FILE).is_file()


def _prompt_text(messages: Messages) -> str:
    """A single message as it is, several as a transcript."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
