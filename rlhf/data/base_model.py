"""Fitting a base model to the pipeline, and proving that the pipeline can read it."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from rlhf.common.errors import DataError, ModelError, SourceError
from rlhf.common.files import read_json, write_json
from rlhf.core.reach import PAIR_ROWS
from rlhf.core.seeds import generator
from rlhf.core.tokenizers import read_tokenizer
from rlhf.data.proofs import prove
from rlhf.data.sources.base import check_weights
from rlhf.data.templates import Fit, fit_tokenizer
from rlhf.models.logits import name_tokens, token_count

# What the class of a model that is no base ends with, and what it is.
_NO_BASES = {
    "ForSequenceClassification": "a reward model or another classifier: `hf:DIRECTORY` in ppo.rewards takes it",
    "ForTokenClassification": "a classifier of tokens, as process reward models are",
    "RewardModel": "a reward model",
    "ForQuestionAnswering": "a model that marks answers in a text",
    "ForMaskedLM": "an encoder, which fills gaps in a text",
    "XLNetLMHeadModel": "a model of texts in shuffled orders, whose words see those behind them",
}
# Layers of these types obey the attention mask that keeps the answers of a pair apart.
_MASKED_LAYER_TYPES = {"full_attention", "sliding_attention"}

log = logging.getLogger(__name__)


def check_base_model(directory: Path) -> None:
    """Refuse what its files show to be no base model, before any weight is read; raises SourceError."""
    _check_complete(directory)
    _check_config(directory)


def check_fit(directory: Path, fit: Fit) -> None:
    """Refuse a tokenizer that cannot be fitted as the settings want it; nothing is written.

    Raises SourceError that names the setting.
    """
    fit_tokenizer(_tokenizer(directory), fit)


def finish_base_model(directory: Path, fit: Fit) -> None:
    """Set template, tokens, ends and pad in place, and try the result.

    Raises SourceError that names what is wrong.
    """
    check_base_model(directory)
    tokenizer = _tokenizer(directory)
    ends = _named_ends(directory, tokenizer)
    added = fit_tokenizer(tokenizer, fit)
    tokenizer.save_pretrained(directory)

    model = _load_model(directory)
    _check_layers(model)
    if added:
        _give_embeddings(model, added, directory)
    _check_embeddings(model, tokenizer)
    _write_tokens(directory, tokenizer, [tokenizer.eos_token_id, *ends])
    _prove(model, directory)


def _check_complete(directory: Path) -> None:
    if (directory / "adapter_config.json").is_file():
        raise SourceError(
            "an adapter, not a whole model: merge it into the model that it was trained on "
            "(peft: model.merge_and_unload(), then save_pretrained)"
        )
    for name in ("config.json", "tokenizer_config.json"):
        if not (directory / name).is_file():
            raise SourceError(f"no {name}: not a Hugging Face model directory")
    check_weights(directory)


def _check_config(directory: Path) -> None:
    """Before anything else reads the configuration: the tokenizer's loader would be blamed for it."""
    try:
        content = read_json(directory / "config.json")
    except DataError as error:
        # without the directory, which is a temporary one while the stage runs
        raise SourceError(_without(directory, error)) from error
    parts = (content, *(part for part in content.values() if isinstance(part, dict)))
    if found := [part["quantization_config"] for part in parts if part.get("quantization_config")]:
        method = found[0].get("quant_method", "unknown") if isinstance(found[0], dict) else found[0]
        raise SourceError(
            f"config.json: quantised weights ({method}), which cannot be trained: dequantise it "
            "first (transformers: model.dequantize(), then save_pretrained), or take the model that "
            "it was made of"
        )
    try:
        config = AutoConfig.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    # each family checks its own, with errors of its own
    except Exception as error:
        told = _without(directory, error)
        raise SourceError(f"config.json: transformers cannot read it: {told}") from error
    _check_kind(config)


def _check_kind(config: PreTrainedConfig) -> None:
    """Models of other kinds: with tied embeddings, transformers would take a reward model for a base."""
    for name in config.architectures or ():
        kind = next((kind for end, kind in _NO_BASES.items() if str(name).endswith(end)), None)
        if kind:
            raise SourceError(
                f"config.json: {name}: {kind}; a base is a causal language model (...ForCausalLM)"
            )
    if config.is_encoder_decoder:
        raise SourceError(
            "config.json: an encoder with a decoder (is_encoder_decoder); a base is a causal "
            "language model, which reads question and answer as one text"
        )


def _without(directory: Path, error: Exception) -> str:
    return str(error).replace(f"{directory}/", "").replace(str(directory), "this model")


def _tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    try:
        return read_tokenizer(directory)
    except ModelError as error:
        # without the directory, which is a temporary one while the stage runs
        raise SourceError(f"transformers cannot load the tokenizer: {error.__cause__}") from error


# -- tokens ----------------------------------------------------------------------------------------


def _named_ends(directory: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that end a reply by the model's own files; there may be several."""
    ends: list[int] = []
    for name in ("generation_config.json", "config.json"):
        path = directory / name
        named = read_json(path).get("eos_token_id") if path.is_file() else None
        ends += [named] if isinstance(named, int) else named or []
    if tokenizer.eos_token_id is not None:
        ends.append(int(tokenizer.eos_token_id))
    vocabulary = set(tokenizer.get_vocab().values())
    return [end for end in ends if end in vocabulary]


def _write_tokens(
    directory: Path, tokenizer: PreTrainedTokenizerBase, ends: Iterable[int | None]
) -> None:
    """A model's files name these tokens too, and generation reads them there."""
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    # the first is the tokenizer's
    different = [end for end in dict.fromkeys(ends) if end is not None]
    for name, value in (
        ("config.json", eos),
        ("generation_config.json", different[0] if len(different) == 1 else different),
    ):
        path = directory / name
        if path.is_file() or len(different) > 1:
            content = read_json(path) if path.is_file() else {}
            write_json(path, {**content, "pad_token_id": pad, "eos_token_id": value})


@torch.no_grad()
def _give_embeddings(model: PreTrainedModel, added: Sequence[int], directory: Path) -> None:
    """Give added tokens embeddings drawn with the mean and the spread of all, and write the model anew.

    With the mean alone they would be equal, and so their logits for as long as embeddings do not learn
    (lora, trainable_layers): no answer could learn to end rather than to begin.
    """
    embeddings: Any = model.get_input_embeddings()
    former = min(added)
    size = max(embeddings.weight.shape[0], token_count(added))
    model.resize_token_embeddings(size, mean_resizing=False)
    random = generator(0, "added tokens")
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        values: Any = layer.weight
        known = values[:former].float()
        noise = torch.randn(len(added), values.shape[1], generator=random)
        values[list(added)] = (known.mean(dim=0) + known.std(dim=0) * noise).to(values.dtype)
        bias: Any = getattr(layer, "bias", None)
        if bias is not None:
            bias[list(added)] = bias[:former].float().mean().to(bias.dtype)
    log.warning("tokens added: %d; embeddings for %d tokens", len(added), size)
    for path in (*directory.glob("*.safetensors"), *directory.glob("*.safetensors.index.json")):
        path.unlink()
    model.save_pretrained(directory)


# -- trying the model --


def _load_model(directory: Path) -> PreTrainedModel:
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype="auto",
            # neither pickles nor code of the model's own
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    # whatever a family's code raises of weights and sizes that do not fit, or of a package it lacks
    except Exception as error:
        raise SourceError(f"transformers cannot load what came: {error}") from error

    model, loading_info = loaded
    missing = sorted(loading_info["missing_keys"])
    if missing:
        more = ", ..." if len(missing) > 3 else ""
        raise SourceError(f"weights are missing: {', '.join(missing[:3])}{more}")
    return model.eval()


def _check_layers(model: PreTrainedModel) -> None:
    # most models have one type of layer and do not name it
    layer_types = getattr(model.config.get_text_config(), "layer_types", None) or ()
    others = sorted(set(layer_types) - _MASKED_LAYER_TYPES)
    if others:
        raise SourceError(
            f"layers of kind {', '.join(others)}: "
            "they are not known to obey the mask that keeps the answers of a pair apart"
        )


def _check_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    embeddings: Any = model.get_input_embeddings()
    needed, there = token_count(tokenizer.get_vocab().values()), embeddings.weight.shape[0]
    if there < needed:
        raise SourceError(
            f"the tokenizer has {needed} tokens, the model fewer embeddings ({there})"
        )


def _prove(model: PreTrainedModel, directory: Path) -> None:
    """Try the model as the stages read it, and note what they must know."""
    name_tokens(model, directory)
    model.float().to("cuda" if torch.cuda.is_available() else "cpu")
    try:
        one_row = prove(model)
    except ModelError as error:
        raise SourceError(str(error)) from error
    if not one_row:
        log.warning(
            "%s: the answers of a pair are not kept apart in one row by its attention; each gets a "
            "row of its own, which is slower",
            type(model).__name__,
        )
        path = directory / "config.json"
        write_json(path, {**read_json(path), PAIR_ROWS: False})
