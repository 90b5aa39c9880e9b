"""A language model with one linear head.

Reward model (a score at the last token), process reward model (a logit at each step end), critic (values).
"""

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
from rlhf.workspace import HEAD_FILE, OFF_FILE

NOTE_FILE = "scalar_model.json"


class ScalarHead(nn.Linear):
    """One scalar from each hidden state, in float32: autocast would round it to three digits."""

    def __init__(self, width: int) -> None:
        super().__init__(width, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states [..., H] -> [...]."""
        with torch.autocast(hidden.device.type, enabled=False):
            # ZeRO may keep the weights in bf16
            weight, bias = self.weight.float(), self.bias.float()
            return nn.functional.linear(hidden.float(), weight, bias).squeeze(-1)

    @torch.no_grad()
    def set_to_zero(self) -> None:
        """Give 0 for every hidden state."""
        self.weight.zero_()
        self.bias.zero_()


class ScalarModel(nn.Module):
    """A language model and a head that reads its last hidden states.

    `lm` keeps its unembedding for the imitation loss of the reward model.
    """

    def __init__(self, lm: PreTrainedModel, head: ScalarHead) -> None:
        super().__init__()
        self.lm = lm
        self.head = head

    def forward(self, batch: TokenBatch) -> Tensor:
        """A scalar for every position, [B, T]: the value of the state after that token."""
        scalars: Tensor = self.head(hidden_states(self.lm, batch))
        return scalars


# -- what is read off -------------------------------------------------------------------------------


def response_scores(model: ScalarModel, batch: TokenBatch) -> Tensor:
    """The scalar at each sequence's last token, [B]: a reward model's score (section 3.1)."""
    hidden = hidden_states(model.lm, batch)
    rows = torch.arange(len(batch), device=hidden.device)
    scores: Tensor = model.head(hidden[rows, batch.last_positions])
    return scores


def response_values(model: ScalarModel, batch: TokenBatch) -> Tensor:
    """The value of the state before each response token, [N]: a critic's."""
    # the state before token t is the one after token t - 1
    values: Tensor = model(batch)[:, :-1][batch.target_mask[:, 1:]]
    return values


def scalars_at(model: ScalarModel, batch: TokenBatch, places: Tensor) -> Tensor:
    """The scalar at each True place, [N] row by row; places [B, T] bool: a process reward model's logits."""
    hidden = hidden_states(model.lm, batch)
    scalars: Tensor = model.head(hidden[places])
    return scalars


def pair_scores(model: ScalarModel, hidden: Tensor, batch: PairBatch) -> Tensor:
    """Scores [B, 2] of the chosen and the rejected answers from the hidden states of pairs, [B, T, H]."""
    rows = torch.arange(hidden.shape[0], device=hidden.device)[:, None]
    scores: Tensor = model.head(hidden[rows, batch.last])
    return scores


# -- from and to disk ------------------------------------------------------------------------------


def new_scalar_model(
    directory: Path, seed: int, *names: str | int, dtype: torch.dtype = torch.float32
) -> ScalarModel:
    """Put a fresh head on the language model in `directory`: weights N(0, 1/(H+1)), bias 0."""
    lm = load_causal_lm(directory, dtype)
    # of what the trunk gives: OPT-350M's is narrower than its layers
    width = int(lm.get_output_embeddings().weight.shape[1])
    head = ScalarHead(width)
    with torch.no_grad():
        random = generator(seed, *names, "head")
        head.weight.normal_(0.0, (width + 1) ** -0.5, generator=random)
        head.bias.zero_()
    return ScalarModel(lm, head)


def load_scalar_model(
    directory: Path, dtype: torch.dtype = torch.float32, *, unit_scale: bool = False
) -> ScalarModel:
    """Read a model written by `save_scalar_model`, the language model in `dtype`; raises ModelError.

    `unit_scale` divides its scalars by the standard deviation of its scores. A critic that starts
    from a reward model wants that: PPO's rewards are normalised to about unit scale.
    """
    if (directory / OFF_FILE).is_file():
        name = directory.name
        raise ModelError(
            f"{directory}: stage {name} is off ({name}: null in params.yaml), so there is no model"
        )
    if not (directory / HEAD_FILE).is_file():
        raise ModelError(f"{directory}: no {HEAD_FILE}: this is not a reward model")
    try:
        tensors = load_file(directory / HEAD_FILE)
    except SafetensorError as error:
        raise ModelError(f"{directory / HEAD_FILE}: not loadable: {error}") from error
    if unit_scale:
        std = score_std(directory)
        tensors = {name: value / std for name, value in tensors.items()}
    head = ScalarHead(tensors["weight"].shape[1])
    head.load_state_dict(tensors)
    return ScalarModel(load_causal_lm(directory, dtype), head)


def score_std(directory: Path) -> float:
    """Standard deviation of a reward model's scores of held-out answers, as noted when it was saved."""
    return float(read_json(directory / NOTE_FILE)["score_std"])


def save_scalar_model(
    model: ScalarModel,
    tokenizer: PreTrainedTokenizerBase,
    directory: Path,
    role: Literal["reward", "gold"],
    score_std: float,
) -> None:
    """Write a Hugging Face directory of the language model, the head beside it, and a note."""
    _save(model, tokenizer, directory)
    note = {"role": role, "read_at": "last token", "head": HEAD_FILE, "score_std": score_std}
    write_json(directory / NOTE_FILE, note)


def save_process_model(
    model: ScalarModel, tokenizer: PreTrainedTokenizerBase, directory: Path, separator: str
) -> None:
    """Write a process reward model; the note names the separator whose steps it was trained on."""
    _save(model, tokenizer, directory)
    note = {"role": "process", "read_at": "step ends", "head": HEAD_FILE, "separator": separator}
    write_json(directory / NOTE_FILE, note)


def separator_of(directory: Path) -> str:
    """The separator of the steps that a process reward model was trained on.

    Raises ModelError where the stage was off, or made no such model.
    """
    if (directory / OFF_FILE).is_file():
        raise ModelError(
            f"{directory}: stage process is off (process: null in params.yaml), so there is no model; "
            "`rlhf preset NAME --variant process` fills the section, then `dvc repro process`"
        )
    note = read_json(directory / NOTE_FILE) if (directory / NOTE_FILE).is_file() else {}
    if "separator" not in note:
        raise ModelError(f"{directory}: not a process reward model: {NOTE_FILE} names no separator")
    return str(note["separator"])


def _save(model: ScalarModel, tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    save_causal_lm(model.lm, tokenizer, directory)
    head = {name: value.contiguous() for name, value in model.head.state_dict().items()}
    save_file(head, directory / HEAD_FILE)
