"""A model that DPO trained, with the note that says from which reference: a Hugging Face directory."""

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf.common.errors import ModelError
from rlhf.common.files import read_json, weights_sha256, write_json
from rlhf.models.saving import load_causal_lm, save_causal_lm
from rlhf.workspace import OFF_FILE

NOTE_FILE = "dpo_model.json"


@dataclass(frozen=True)
class DpoNote:
    """How a model was trained; its implicit reward is beta log(pi / pi_ref).

    reference: the hash of the reference's weights
    """

    beta: float
    loss: str
    reference: str


def save_dpo_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, note: DpoNote
) -> None:
    """Write model, tokenizer and note."""
    save_causal_lm(model, tokenizer, directory)
    write_json(directory / NOTE_FILE, asdict(note))


def read_dpo_note(directory: Path) -> DpoNote:
    """What was noted beside a model; raises ModelError where the stage was off, or made no such model."""
    if (directory / OFF_FILE).is_file():
        raise ModelError(
            f"{directory}: stage dpo is off (dpo: null in params.yaml), so there is no model; "
            "`rlhf preset NAME --variant rto` fills the section, then `dvc repro dpo`"
        )
    if not (directory / NOTE_FILE).is_file():
        raise ModelError(f"{directory}: no {NOTE_FILE}: this is not a model of stage dpo")
    content = read_json(directory / NOTE_FILE)
    return DpoNote(float(content["beta"]), str(content["loss"]), str(content["reference"]))


def load_dpo_model(
    directory: Path, reference: Path, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """Load a model that was trained against `reference`; raises ModelError where it was another one.

    Its log-ratio to another reference would be a reward that nobody trained.
    """
    note = read_dpo_note(directory)
    if note.reference != weights_sha256(reference):
        raise ModelError(
            f"{directory / NOTE_FILE}: trained against a reference with weights "
            f"{note.reference[:12]}, but {reference} has others; `dvc repro dpo` trains it anew"
        )
    return load_causal_lm(directory, dtype)
