"""What learns with parts of it in host memory (`engine.offload`), on two processes.

`offload_checks.py` runs once, and these tests read what it found. On a CPU the host's memory is the
device's too: what is shown is that numbers and checkpoints are the same.
"""

import json
from typing import Any

import pytest
from test_zero import assert_exchanged, run_processes

pytestmark = pytest.mark.long

WAYS = ("stage 1", "stage 2", "stage 3", "stage 3, weights")


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    output = tmp_path_factory.mktemp("offload") / "findings.json"
    run_processes(2, "offload_checks.py", str(output))
    return json.loads(output.read_text(encoding="utf-8"))


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_like_one(findings: dict[str, Any], way: str) -> None:
    worst = findings[way]["parity"]
    assert worst["loss"] < 1e-5
    assert worst["norm"] < 1e-5
    assert worst["weights"] < 1e-6
    assert worst["outside"] < 1e-5
    assert worst["gathered"] < 1e-5


@pytest.mark.parametrize(
    ("way", "what"),
    [("stage 2", "fp32"), ("stage 2", "adapters"), *((way, "bf16") for way in WAYS)],
)
def test_numbers_are_those_without_offload(findings: dict[str, Any], way: str, what: str) -> None:
    """In a step too that reaches the embeddings alone: no gradient of the step before counts again, on either side.

    Norms are summed in another order, and clipping by them rounds otherwise.
    """
    found = findings[way][what]
    assert found["numbers"] < (2e-3 if what == "bf16" else 1e-5)
    assert found["weights"] < (1e-3 if what == "bf16" else 1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_bad_gradient_is_refused_on_all_processes(findings: dict[str, Any], way: str) -> None:
    found = findings[way]["bad_gradient"]
    assert [text.split(":")[0] for text in found["raised"]] == ["NonFiniteError"] * 2
    assert found["unchanged"]


def test_with_and_without_offload_go_on_from_each_other(findings: dict[str, Any]) -> None:
    assert len(findings["exchange"]) == 9 + 4
    assert_exchanged(findings["exchange"], 2)
