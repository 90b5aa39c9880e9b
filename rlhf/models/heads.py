"""A language model with one linear head: reward model (score at the last token) and critic (value of every state)."""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.batches.padding import TokenBatch
from rlhf.batches.pairs import PairBatch
from rlhf.common.errors import ModelError
from rlhf.common.files import read_json, write_json
from rlhf.core.seeds import generator
from rlhf.models.backbone import hidden_states
from rlhf.models.saving import load_causal_lm, save_causal_lm

HEAD_FILE = "scalar_head.safetensors"
NOTE_FILE = "scalar_model.json"


class ScalarHead(nn.Linear):
    """One scalar from each hidden state, in float32: autocast would round it to three digits."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] -> [...]."""
        with torch.autocast(hidden.device.type, enabled=False):
            weight, bias = self.weight.float(), self.bias.float()  # ZeRO may keep them in bf16
            return nn.functional.linear(hidden.float(), weight, bias).squeeze(-1)


class ScalarModel(nn.Module):
    """`lm` keeps its unembedding for the imitation loss of the reward model; the head reads the last hidden state."""

    def __init__(self, lm: PreTrainedModel, head: ScalarHead) -> None:
        super().__init__()
        self.lm = lm
        self.head = head

    def from_hidden(self, hidden: Tensor) -> Tensor:
        """Scalars of hidden states [..., H] -> [...], float32."""
        return self.head(hidden)

    def forward(self, batch: TokenBatch) -> Tensor:
        """A scalar for every position, [B, T]: the value of the state after that token."""
        return self.from_hidden(hidden_states(self.lm, batch))

    def scores(self, batch: TokenBatch) -> Tensor:
        """The scalar at each sequence's last token, [B] (section 3.1)."""
        return at_last(hidden_states(self.lm, batch), batch, self)


def at_last(hidden: Tensor, batch: TokenBatch, model: ScalarModel) -> Tensor:
    """Scores [B] from hidden states [B, T, H] that are already there."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)
    return model.from_hidden(hidden[rows, batch.last_positions])


def at_pair_ends(hidden: Tensor, batch: PairBatch, model: ScalarModel) -> Tensor:
    """Scores [B, 2] of the chosen and the rejected answers from the hidden states of pairs, [B, T, H]."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)[:, None]
    return model.from_hidden(hidden[rows, batch.last])


def new_scalar_model(directory: Path, seed: int, *names: str | int) -> ScalarModel:
    """Put a fresh head on the language model in `directory`: weights N(0, 1/(H+1)), bias 0."""
    lm = load_causal_lm(directory)
    width = int(lm.config.hidden_size)
    head = ScalarHead(width)
    with torch.no_grad():
        head.weight.normal_(0.0, (width + 1) ** -0.5, generator=generator(seed, *names, "head"))
        head.bias.zero_()
    return ScalarModel(lm, head)


def load_scalar_model(directory: Path, *, unit_scale: bool = False) -> ScalarModel:
    """Read a model written by `save_scalar_model`; `unit_scale` divides its scalars by the spread of its scores.

    A critic that starts from a reward model wants the latter: PPO's rewards are normalised to about unit scale.
    """
    if not (directory / HEAD_FILE).is_file():
        raise ModelError(f"{directory}: no {HEAD_FILE}: this is not a reward model")
    try:
        tensors = load_file(directory / HEAD_FILE)
    except SafetensorError as error:
        raise ModelError(f"{directory / HEAD_FILE}: not loadable: {error}") from error
    if unit_scale:
        spread = score_spread(directory)
        tensors = {name: value / spread for name, value in tensors.items()}
    head = ScalarHead(tensors["weight"].shape[1])
    head.load_state_dict(tensors)
    return ScalarModel(load_causal_lm(directory), head)


def score_spread(directory: Path) -> float:
    """Standard deviation of a reward model's scores of held-out answers, as noted when it was saved."""
    return float(read_json(directory / NOTE_FILE)["score_std"])


def save_scalar_model(
    model: ScalarModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    role: Literal["reward", "gold"],
    score_std: float,
) -> None:
    """Write a Hugging Face directory of the language model, the head beside it, and a note of role and score spread."""
    save_causal_lm(model.lm, tokenizer, directory)
    save_file(
        {name: value.contiguous() for name, value in model.head.state_dict().items()},
        directory / HEAD_FILE,
    )
    note = {"role": role, "read_at": "last token", "head": HEAD_FILE, "score_std": score_std}
    write_json(directory / NOTE_FILE, note)
