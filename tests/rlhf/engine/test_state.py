from pathlib import Path

import pytest
import torch

from rlhf.engine.state import load_state, save_state


def test_round_trip(tmp_path: Path) -> None:
    shared = torch.arange(4.0)
    tree = {
        "steps": 7,
        "rate": 0.1,
        "text": "ä",
        "flag": True,
        "nothing": None,
        "list": [1, {"deep": torch.tensor([1.5, -0.0])}, []],
        "views": {"a": shared, "b": shared[1:3], "transposed": torch.arange(6).view(2, 3).T},
        "kinds": {
            "bf16": torch.ones(2, dtype=torch.bfloat16),
            "bool": torch.tensor([True]),
            "scalar": torch.tensor(3),
        },
        "weights": torch.nn.Parameter(torch.ones(2)),
        "empty": {},
    }
    save_state(tmp_path, "trainer", tree)
    loaded = load_state(tmp_path, "trainer")
    assert loaded.keys() == tree.keys()
    assert [loaded[key] for key in ("steps", "rate", "text", "flag", "nothing", "empty")] == [
        7,
        0.1,
        "ä",
        True,
        None,
        {},
    ]
    assert loaded["list"][0] == 1 and loaded["list"][2] == []
    assert torch.equal(loaded["list"][1]["deep"], torch.tensor([1.5, -0.0]))
    assert torch.equal(loaded["views"]["b"], torch.tensor([1.0, 2.0]))
    assert torch.equal(loaded["views"]["transposed"], torch.arange(6).view(2, 3).T)
    assert loaded["kinds"]["bf16"].dtype == torch.bfloat16
    assert loaded["kinds"]["scalar"].shape == ()
    assert torch.equal(loaded["weights"], torch.ones(2))


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
