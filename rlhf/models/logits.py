"""What a model does to the product of states and unembedding before it calls it logits."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from rlhf.core.tokenizers import read_tokenizer

# the settings of a configuration that change logits: Gemma's cap, Cohere's factor, Granite's divisor
CAP, FACTOR, DIVISOR = "final_logit_softcapping", "logit_scale", "logits_scaling"


def finish_logits(model: PreTrainedModel, logits: Tensor) -> Tensor:
    """Logits [..., V] float32 as the model's own, of the tokens that the tokenizer has."""
    named = getattr(model, "tokens_with_a_name", None)
    if named is not None:
        # nobody could read the others, nor say them
        logits = logits[..., :named]
    config = model.config.get_text_config()
    factor, divisor = _number(config, FACTOR), _number(config, DIVISOR)
    if factor is not None:
        logits = logits * factor
    if divisor is not None:
        logits = logits / divisor
    cap = _number(config, CAP)
    if cap is not None:
        logits = (logits / cap).tanh() * cap
    return logits


def leave_logits_alone(model: PreTrainedModel) -> None:
    """Neither scale nor cap: for a head whose outputs are no logits."""
    config = model.config.get_text_config()
    for name in (CAP, FACTOR, DIVISOR):
        if hasattr(config, name):
            setattr(config, name, None)


def name_tokens(model: PreTrainedModel, directory: Path) -> None:
    """Note how many of the model's tokens the tokenizer beside it has, where those are fewer.

    Embeddings are often rounded up, to a multiple of 64 for one.
    """
    if not (directory / "tokenizer_config.json").is_file():
        return
    named = token_count(read_tokenizer(directory).get_vocab().values())
    if named < model.get_output_embeddings().weight.shape[0]:
        # of Python, not of the configuration: it is no property of the weights
        model.tokens_with_a_name = named  # type: ignore[assignment]


def token_count(ids: Iterable[int]) -> int:
    """One more than the largest id: a tokenizer may leave ids out."""
    return max(ids, default=-1) + 1


def _number(config: PreTrainedConfig, name: str) -> float | None:
    value = getattr(config, name, None)
    return None if value is None else float(value)
