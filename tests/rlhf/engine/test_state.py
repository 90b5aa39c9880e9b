from pathlib import Path

import pytest
import torch

from rlhf.engine.state import load_state, save_state

PLAIN = {
    "steps": 7,
    "rate": 0.1,
    "text": "ä",
    "flag": True,
    "nothing": None,
    "empty": {},
    "list": [1, [], "x"],
}


def test_plain_values_come_back(tmp_path: Path) -> None:
    save_state(tmp_path, "trainer", PLAIN)
    assert load_state(tmp_path, "trainer") == PLAIN


def test_tensors_come_back_from_any_depth(tmp_path: Path) -> None:
    tree = {"list": [1, {"deep": torch.tensor([1.5, -0.0])}, []]}
    save_state(tmp_path, "trainer", tree)
    loaded = load_state(tmp_path, "trainer")
    assert loaded["list"][0] == 1 and loaded["list"][2] == []
    assert torch.equal(loaded["list"][1]["deep"], torch.tensor([1.5, -0.0]))


def test_views_come_back_as_what_they_show(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    transposed = torch.arange(6).view(2, 3).T
    save_state(tmp_path, "trainer", {"a": shared, "b": shared[1:3], "transposed": transposed})
    loaded = load_state(tmp_path, "trainer")
    assert torch.equal(loaded["a"], shared)
    assert torch.equal(loaded["b"], torch.tensor([1.0, 2.0]))
    assert torch.equal(loaded["transposed"], transposed)


def test_tensors_keep_their_type_and_shape(tmp_path: Path) -> None:
    tree = {
        "bf16": torch.ones(2, dtype=torch.bfloat16),
        "bool": torch.tensor([True]),
        "scalar": torch.tensor(3),
        "weights": torch.nn.Parameter(torch.ones(2)),
    }
    save_state(tmp_path, "trainer", tree)
    loaded = load_state(tmp_path, "trainer")
    assert loaded.keys() == tree.keys()
    for name, value in tree.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)


def test_a_tree_without_tensors(tmp_path: Path) -> None:
    save_state(tmp_path, "loop", {"seconds": 1.25, "initial": {}})
    assert load_state(tmp_path, "loop") == {"seconds": 1.25, "initial": {}}


def test_numbers_survive_exactly(tmp_path: Path) -> None:
    save_state(tmp_path, "loop", {"third": 1 / 3, "tiny": 5e-324})
    assert load_state(tmp_path, "loop") == {"third": 1 / 3, "tiny": 5e-324}


@pytest.mark.parametrize("bad", [{"a": object()}, {"a": [{1, 2}]}])
def test_what_json_cannot_hold_is_refused_by_its_path(tmp_path: Path, bad: dict) -> None:
    with pytest.raises(TypeError, match="/a"):
        save_state(tmp_path, "loop", bad)


def test_keys_that_json_would_change_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="keys"):
        save_state(tmp_path, "loop", {"a": {1: "one"}})
