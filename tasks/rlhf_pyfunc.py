"""What MLflow runs for a registered model: `mlflow.pyfunc.load_model`, `mlflow models serve`.

A copy of this file lies in the folder of each model, and is loaded from there: torch, transformers
and pandas are all that it may need.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

HEAD_FILE = "scalar_head.safetensors"
# prompts or answers in one forward pass
_BATCH = 16


def _load_pyfunc(path: str, model_config: Mapping[str, Any] | None = None) -> "Responder | Scorer":
    """Load the model in `path`; MLflow calls this by its name.

    model_config: defaults of `Responder.predict`'s params
    """
    directory = Path(path)
    if not any(directory.glob("model*.safetensors")):
        raise FileNotFoundError(_missing_weights(directory))
    if (directory / HEAD_FILE).is_file():
        return Scorer(directory)
    return Responder(directory, model_config or {})


def _missing_weights(directory: Path) -> str:
    return (
        f"{directory}: the weights of this version are with DVC, not with MLflow (mlflow.weights: "
        "reference). In a clone of the project that made it, with access to its DVC remote, "
        "`rlhf weights NAME/VERSION` brings them here"
    )


class Responder:
    """A language model that answers prompts."""

    def __init__(self, directory: Path, defaults: Mapping[str, Any]) -> None:
        self.tokenizer = _tokenizer(directory)
        self.model = _language_model(directory)
        self.defaults = dict(defaults)

    @torch.no_grad()
    def predict(self, frame: pd.DataFrame, params: Mapping[str, Any] | None = None) -> list[str]:
        """Answer each text of the column `prompt`.

        params: max_new_tokens, temperature (0: the likeliest token always), top_p,
            repetition_penalty, seed
        """
        options = self.defaults | dict(params or {})
        torch.manual_seed(int(options.pop("seed", 1)))
        answers: list[str] = []
        for prompts in _batches(list(frame["prompt"])):
            answers += self._answer(prompts, options)
        return answers

    def _answer(self, prompts: list[str], options: Mapping[str, Any]) -> list[str]:
        sequences = [_prompt_ids(self.tokenizer, prompt) for prompt in prompts]
        encoded = _pad(sequences, "left", self.model.device)
        temperature = float(options["temperature"])
        sampling: dict[str, Any] = {"do_sample": False}
        if temperature > 0:
            # top_k 0: transformers would cut at 50 otherwise
            sampling = {"do_sample": True, "temperature": temperature, "top_k": 0}
            sampling["top_p"] = float(options["top_p"])
        generate: Any = self.model.generate
        tokens: Tensor = generate(
            **encoded,
            **sampling,
            max_new_tokens=int(options["max_new_tokens"]),
            repetition_penalty=float(options["repetition_penalty"]),
            # there may be several, the tokenizer's among them
            eos_token_id=self.model.generation_config.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        responses = tokens[:, encoded["input_ids"].shape[1] :]
        texts: list[str] = self.tokenizer.batch_decode(responses, skip_special_tokens=True)
        return [text.strip() for text in texts]


class Scorer:
    """A reward model: a language model with a linear head that reads its last token."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer = _tokenizer(directory)
        self.model = _language_model(directory)
        head = load_file(directory / HEAD_FILE)
        device = self.model.device
        self.weight = head["weight"].float().to(device)
        self.bias = head["bias"].float().to(device)

    @torch.no_grad()
    def predict(self, frame: pd.DataFrame, params: Mapping[str, Any] | None = None) -> list[float]:
        """Score each answer of the column `response` to the text in `prompt`."""
        del params
        scores: list[float] = []
        for rows in _batches(list(zip(frame["prompt"], frame["response"], strict=True))):
            scores += self._score(rows)
        return scores

    def _score(self, rows: list[tuple[str, str]]) -> list[float]:
        sequences = []
        for prompt, response in rows:
            prompt_ids = _prompt_ids(self.tokenizer, prompt)
            sequences.append(prompt_ids + _response_ids(self.tokenizer, prompt, response))
        encoded = _pad(sequences, "right", self.model.device)
        hidden = self.model.base_model(**encoded, use_cache=False).last_hidden_state
        last = encoded["attention_mask"].sum(dim=1) - 1
        states = hidden[torch.arange(len(rows), device=last.device), last].float()
        scores = torch.nn.functional.linear(states, self.weight, self.bias)
        return [float(score) for score in scores[:, 0]]


# -- text to tokens ---------------------------------------------------------------------------------


def _prompt_ids(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The tokens of a prompt, up to where its answer begins."""
    return _tokens(tokenizer, _rendered_prompt(tokenizer, prompt))


def _response_ids(tokenizer: PreTrainedTokenizerBase, prompt: str, response: str) -> list[int]:
    """The tokens of an answer with its end-of-turn token."""
    messages = [_message("user", prompt), _message("assistant", response)]
    dialogue = str(tokenizer.apply_chat_template(messages, tokenize=False))
    end = dialogue.rfind(str(tokenizer.eos_token)) + len(str(tokenizer.eos_token))
    start = len(_rendered_prompt(tokenizer, prompt))
    return _tokens(tokenizer, dialogue[start:end])


def _rendered_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    messages = [_message("user", prompt)]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(text)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _pad(sequences: list[list[int]], side: str, device: torch.device) -> dict[str, Tensor]:
    """Token ids and attention mask, both [B, T] int64; padding is token 0, masked out."""
    width = max(map(len, sequences))
    ids, mask = [], []
    for sequence in sequences:
        gap = [0] * (width - len(sequence))
        ones = [1] * len(sequence)
        ids.append(gap + sequence if side == "left" else sequence + gap)
        mask.append(gap + ones if side == "left" else ones + gap)
    tensors = {"input_ids": ids, "attention_mask": mask}
    return {name: torch.tensor(rows, device=device) for name, rows in tensors.items()}


def _batches(items: list[Any]) -> Iterator[list[Any]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]


# -- from disk --------------------------------------------------------------------------------------


def _tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        directory, local_files_only=True, trust_remote_code=False
    )
    return tokenizer


def _language_model(directory: Path) -> PreTrainedModel:
    model: Any = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        use_safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    ready: PreTrainedModel = model.eval().to(device)
    return ready
