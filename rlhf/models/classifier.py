"""Reward models as transformers knows them: sequence classifiers with one label, asked by text.

Our own reward models are written in that form by `export_classifier`.
"""

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.common.errors import ModelError
from rlhf.common.files import read_json, staged_directory, write_json
from rlhf.core.reach import longest_text
from rlhf.core.tokenizers import folded, read_tokenizer, template_errors, without_thoughts
from rlhf.engine import Engine
from rlhf.workspace import HEAD_FILE

# of an exported model's configuration: what is added to its score; its classifier has no bias
SCORE_BIAS = "score_bias"
_INDEX_FILE = "model.safetensors.index.json"
# what a tokenizer without a limit states is larger than any window
_NO_LIMIT = 10**9

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
                [self.encode(Answered([{"role": "user", "content": "Why?"}], "So."))]
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
        ids, window = [self._encoded(one) for one in answered], self.window
        fitting = [row for row, tokens in enumerate(ids) if 0 < len(tokens) <= window]
        # texts of like length side by side: less padding
        fitting.sort(key=lambda row: len(ids[row]))
        scores: list[float | None] = [None] * len(ids)
        for start in range(0, len(fitting), self._at_once):
            rows = fitting[start : start + self._at_once]
            for row, score in zip(rows, self._forward([ids[row] for row in rows]), strict=True):
                scores[row] = score
        return scores

    def encode(self, answered: Answered) -> list[int]:
        """The tokens of a dialogue with its response.

        By the chat template where there is one: a response that was cut stays open. Else as the pair of
        texts that classifiers without one are trained on. Raises TemplateError.
        """
        if self.tokenizer.chat_template is None:
            prompt = _prompt_text(answered.messages)
            pair: list[int] = self.tokenizer(prompt, answered.response)["input_ids"]
            return pair
        text = self._rendered(answered)
        # the template has put them there
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def _encoded(self, answered: Answered) -> list[int]:
        try:
            return self.encode(answered)
        except TemplateError:
            return []

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
                    text = self.tokenizer.apply_chat_template(
                        dialogue, tokenize=False, continue_final_message=cut
                    )
                    return str(text)
            except TemplateError as error:
                refusals.append(error)
        raise refusals[0]

    @property
    def _at_once(self) -> int:
        # without a pad token transformers cannot tell where a text of several ends
        return self.batch if self.model.config.pad_token_id is not None else 1

    def _forward(self, rows: Sequence[Sequence[int]]) -> list[float]:
        width = max(map(len, rows))
        pad = int(self.model.config.pad_token_id or 0)
        ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        device = self.model.device
        with self.autocast():
            logits = self.model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits
        bias = float(getattr(self.model.config, SCORE_BIAS, 0.0))
        scores: list[float] = (logits.squeeze(-1).float() + bias).tolist()
        return scores


def check_classifier(directory: Path) -> None:
    """Refuse a directory without a model that may be loaded; raises ModelError."""
    if not (directory / "config.json").is_file():
        raise ModelError(f"{directory}: no model here (config.json is missing)")
    if not any(directory.glob("*.safetensors")):
        raise ModelError(f"{directory}: no *.safetensors weights; other formats are not loaded")


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
        hint = "; `rlhf export-reward` writes ours in this form" if _is_ours(directory) else ""
        raise ModelError(
            f"{directory}: its weights lack {', '.join(missing[:3])}: it is no trained sequence "
            f"classifier{hint}"
        )
    if model.config.num_labels != 1:
        raise ModelError(
            f"{directory}: a classifier of {model.config.num_labels} labels; a reward model has one"
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
        with torch.autocast(hidden.device.type, enabled=False):
            scores: Tensor = self.linear(hidden.float())
        return scores


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


def _is_ours(directory: Path) -> bool:
    return (directory / HEAD_FILE).is_file()


def _prompt_text(messages: Messages) -> str:
    """A single message as it is, several as a transcript."""
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


# -- ours in that form -----------------------------------------------------------------------------


def export_classifier(source: Path, target: Path) -> float:
    """Write a reward model of ours as a sequence classifier; gives what is to be added to its score.

    The weights are further names of the files in `source`, where the disk can, so that they take no
    room twice; the head is a small file beside them. transformers' classifiers have no bias: ours
    stands in `config.json` as `score_bias`. Raises ModelError where transformers has no classifier of
    that family.
    """
    if not _is_ours(source):
        raise ModelError(f"{source}: no {HEAD_FILE}: this is not a reward model")
    head = load_file(source / HEAD_FILE)
    bias = float(head["bias"])
    name = _head_name(source)
    with staged_directory(target) as directory:
        weight_map: dict[str, str] = {}
        for path in sorted(source.glob("*.safetensors")):
            if path.name != HEAD_FILE:
                # one file named model.safetensors would be taken for all there is
                _link(path, directory / f"backbone-{path.name}")
                with safe_open(path, "pt") as tensors:
                    weight_map |= dict.fromkeys(tensors.keys(), f"backbone-{path.name}")
        save_file({name: head["weight"].float()}, directory / "score.safetensors", {"format": "pt"})
        weight_map[name] = "score.safetensors"
        write_json(directory / _INDEX_FILE, {"metadata": {}, "weight_map": weight_map})
        write_json(directory / "config.json", _as_classifier(source, bias))
        tokenizer = read_tokenizer(source)
        if isinstance(tokenizer.chat_template, str):
            tokenizer.chat_template = _ending_with_last_token(tokenizer.chat_template)
        tokenizer.save_pretrained(directory)
    return bias


def _as_classifier(source: Path, bias: float) -> dict[str, Any]:
    config = read_json(source / "config.json")
    family = type(_empty_classifier(source)).__name__
    return config | {
        "architectures": [family],
        "id2label": {"0": "reward"},
        "label2id": {"reward": 0},
        SCORE_BIAS: bias,
    }


def _head_name(source: Path) -> str:
    """What the family's classifier calls the weights of its head."""
    model = _empty_classifier(source)
    prefix = f"{model.base_model_prefix}."
    names = [name for name, _ in model.named_parameters() if not name.startswith(prefix)]
    if len(names) != 1:
        raise ModelError(
            f"{source}: {type(model).__name__} has more than a linear head ({', '.join(names)})"
        )
    return names[0]


def _empty_classifier(source: Path) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(source, local_files_only=True, num_labels=1)
    try:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForSequenceClassification.from_config(
                config, trust_remote_code=False
            )
    except ValueError as error:
        raise ModelError(
            f"{source}: transformers has no sequence classifier of family {config.model_type}"
        ) from error
    return model


def _ending_with_last_token(template: str) -> str:
    """A chat template without the line end behind the last turn: our score is read at its end token."""
    body = f"{{%- set rendered %}}{template}{{% endset %}}"
    return f"{body}{{{{- rendered if add_generation_prompt else rendered.rstrip() }}}}"


def _link(path: Path, link: Path) -> None:
    try:
        # of what DVC put there as a link the file itself
        os.link(path.resolve(), link)
    # another disk, or one without links
    except OSError:
        shutil.copyfile(path, link)
