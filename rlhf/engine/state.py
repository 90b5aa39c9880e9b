"""Training state on disk without pickles: tensors as safetensors, everything else as JSON."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_TENSORS = "state.safetensors"
_TREE = "state.json"


def save_state(directory: Path, name: str, tree: dict[str, Any]) -> None:
    """Write a tree of dicts and lists; leaves are tensors, numbers, strings, booleans and None."""
    tensors: dict[str, Tensor] = {}
    folder = directory / name
    folder.mkdir(parents=True, exist_ok=True)
    # tensors go to one file, and leave their paths behind in the tree
    skeleton = _strip(tree, "", tensors)
    save_file(tensors or {"": torch.zeros(0)}, folder / _TENSORS)
    (folder / _TREE).write_text(json.dumps(skeleton), encoding="utf-8")


def load_state(directory: Path, name: str) -> dict[str, Any]:
    """Read back what `save_state` wrote, tensors on the CPU."""
    folder = directory / name
    tensors = load_file(folder / _TENSORS)
    tree = _fill(json.loads((folder / _TREE).read_text(encoding="utf-8")), tensors)
    assert isinstance(tree, dict)
    return tree


def _strip(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    # a clone: safetensors refuses tensors that share memory
    if isinstance(node, Tensor):
        tensors[path] = node.detach().cpu().contiguous().clone()
        return {"$tensor": path}
    if isinstance(node, dict):
        if not all(isinstance(key, str) for key in node):
            raise TypeError(
                f"{path}: keys must be text, JSON would change {sorted(map(repr, node))}"
            )
        return {key: _strip(value, f"{path}/{key}", tensors) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_strip(value, f"{path}/{index}", tensors) for index, value in enumerate(node)]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    raise TypeError(f"{path}: a {type(node).__name__} cannot be kept in a training state")


def _fill(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, dict):
        if set(node) == {"$tensor"}:
            return tensors[node["$tensor"]]
        return {key: _fill(value, tensors) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, tensors) for value in node]
    return node
