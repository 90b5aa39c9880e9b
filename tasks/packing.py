"""The folder of a registered model: what MLflow's own calls load.

    MLmodel               its flavours, signature and environment
    data/<model>/         the Hugging Face directory
    components/tokenizer/ where the flavour `transformers` looks for it
    code/rlhf_pyfunc.py   what the flavour `python_function` runs
    lineage.json          commit, settings and hashes that it was made from, and of its files

Written without loading the model: its weights are linked or copied as files.
"""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

from rlhf.common.files import sha256, write_json
from rlhf.settings.evaluation import Generation
from rlhf.workspace import HEAD_FILE

WEIGHTS_SUFFIX = ".safetensors"
# it is read as a file: importing it would import torch
_LOADER = Path(__file__).with_name("rlhf_pyfunc.py")
_PACKAGES = ("mlflow", "torch", "transformers", "safetensors", "pandas")
# what a tokenizer may consist of
_TOKENIZER_FILES = ("tokenizer*", "chat_template*", "special_tokens*", "vocab*", "merges*")
_PROMPT = "How do I keep bread fresh?"
_RESPONSE = "Keep it in a paper bag, away from the light."


def pack(
    directory: Path,
    folder: Path,
    mlflow_model: Model,
    generation: Generation,
    lineage: Mapping[str, Any],
) -> None:
    """Write the folder of the model in `directory`, all but its weights.

    generation: how its python_function answers unless asked otherwise
    """
    kept = folder.with_name(directory.name)
    kept.mkdir()
    for path in small_files(directory):
        _copy(path, kept / path.relative_to(directory))
    if is_reward_model(directory):
        signature, example = _scorer_signature(), _scorer_example()
        defaults = None
    else:
        signature, example = _responder_signature(generation), _responder_example()
        defaults = _defaults(generation)
        _add_transformers_flavour(mlflow_model, directory)

    mlflow.pyfunc.save_model(
        folder,
        loader_module=_LOADER.stem,
        data_path=str(kept),
        code_paths=[str(_LOADER)],
        mlflow_model=mlflow_model,
        signature=signature,
        input_example=example,
        model_config=defaults,
        pip_requirements=_requirements(),
    )
    write_json(folder / "lineage.json", lineage)
    if not is_reward_model(directory):
        for path in _tokenizer_files(directory):
            _copy(path, folder / "components" / "tokenizer" / path.name)


def weights_folder(model: str) -> Path:
    """Where in its folder a model's weights belong."""
    return Path("data") / model


def is_reward_model(directory: Path) -> bool:
    """Whether it scores answers; a language model gives them."""
    return (directory / HEAD_FILE).is_file()


def weight_files(directory: Path) -> list[Path]:
    """The files of its weights."""
    return [path for path in _files(directory) if path.suffix == WEIGHTS_SUFFIX]


def small_files(directory: Path) -> list[Path]:
    """All its other files."""
    return [path for path in _files(directory) if path.suffix != WEIGHTS_SUFFIX]


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file a second name, or a copy where the disk is another one or knows no such names."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # never written into: it may be another name of somebody's file
    target.unlink(missing_ok=True)
    with suppress(OSError):
        # of what a link of DVC's points to
        os.link(source.resolve(), target)
        return
    shutil.copyfile(source, target)


def file_hashes(directory: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of each of its files."""
    return {
        path.relative_to(directory).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
        }
        for path in _files(directory)
    }


# -- flavours ---------------------------------------------------------------------------------------


def _add_transformers_flavour(mlflow_model: Model, directory: Path) -> None:
    """Name the files as MLflow's flavour `transformers` does when it saves a text-generation pipeline."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    tokenizer = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8"))
    mlflow_model.add_flavor(
        "transformers",
        transformers_version=_version("transformers"),
        task="text-generation",
        instance_type="TextGenerationPipeline",
        pipeline_model_type=config["architectures"][0],
        source_model_name=directory.name,
        model_binary=weights_folder(directory.name).as_posix(),
        components=["tokenizer"],
        tokenizer_type=tokenizer["tokenizer_class"],
        tokenizer_name=directory.name,
        code=None,
    )


def _requirements() -> list[str]:
    return [f"{package}=={_version(package)}" for package in _PACKAGES]


def _version(package: str) -> str:
    # +cpu names a build that an index need not have
    return version(package).partition("+")[0]


# -- signatures and examples ------------------------------------------------------------------------


def _responder_signature(generation: Generation) -> ModelSignature:
    types = {int: DataType.long, float: DataType.double}
    params = [
        ParamSpec(name, types[type(value)], value) for name, value in _defaults(generation).items()
    ]
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.string, "prompt")]),
        outputs=Schema([ColSpec(DataType.string)]),
        params=ParamSchema(params),
    )


def _defaults(generation: Generation) -> dict[str, int | float]:
    return {
        "max_new_tokens": generation.max_new_tokens,
        "temperature": float(generation.temperature),
        "top_p": float(generation.top_p),
        "repetition_penalty": float(generation.repetition_penalty),
        "seed": 1,
    }


def _responder_example() -> pd.DataFrame:
    return pd.DataFrame({"prompt": [_PROMPT]})


def _scorer_signature() -> ModelSignature:
    prompt, response = ColSpec(DataType.string, "prompt"), ColSpec(DataType.string, "response")
    return ModelSignature(
        inputs=Schema([prompt, response]), outputs=Schema([ColSpec(DataType.double)])
    )


def _scorer_example() -> pd.DataFrame:
    return pd.DataFrame({"prompt": [_PROMPT], "response": [_RESPONSE]})


# -- files ------------------------------------------------------------------------------------------


def _files(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _tokenizer_files(directory: Path) -> list[Path]:
    return [path for pattern in _TOKENIZER_FILES for path in directory.glob(pattern)]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # not its mode: a shared store is for all who may read it
    shutil.copyfile(source, target)
