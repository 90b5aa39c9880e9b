"""Our reward models in the form that transformers has for them: sequence classifiers with one label."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from rlhf.common.errors import ModelError
from rlhf.common.files import read_json, staged_directory, write_json
from rlhf.core.tokenizers import read_tokenizer
from rlhf.models.classifier import SCORE_BIAS, is_ours
from rlhf.workspace import HEAD_FILE

_INDEX_FILE = "model.safetensors.index.json"


def export_classifier(source: Path, target: Path) -> float:
    """Write a reward model of ours as a sequence classifier; gives what is to be added to its score.

    The weights are further names of the files in `source`, where the disk can, so that they take no
    room twice; the head is a small file beside them. transformers' classifiers have no bias: ours
    stands in `config.json` as `score_bias`. Raises ModelError where transformers has no classifier of
    that family.
    """
    if not is_ours(source):
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
