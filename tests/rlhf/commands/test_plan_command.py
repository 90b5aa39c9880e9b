"""`rlhf plan`, and what the doctor says of it."""

from pathlib import Path

import pytest
from cli_runner import run

from rlhf.commands import plan_check
from rlhf.plan.machine import GB, parse_machine
from rlhf.settings import load_settings
from rlhf.workspace import Workspace


def test_the_papers_setting_on_eight_cards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLHF_BASE_MODEL", raising=False)
    code, output = run("plan", "--preset", "hh-7b", "--gpus", "8x80", "--price", "2", root=tmp_path)
    assert code == 0
    assert "llama-7b: 6.74 billion parameters" in output
    assert "Every training stage fits, with a tenth to spare." in output
    assert "ZeRO-3, frozen host" in output
    assert "communication and" in output and "cost" in output
    # it reads no weights and writes nothing
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_told_with_what_to_change(tmp_path: Path) -> None:
    code, output = run(
        *("plan", "--preset", "hh-7b", "--variant", "lora", "--model", "llama-7b"),
        *("--gpus", "2x80"),
        root=tmp_path,
    )
    assert code == 1
    assert "changed for this machine: engine.processes: 2" in output
    assert "gold: does not fit with a tenth to spare." in output
    assert "To make it fit:" in output
    assert "gold.lora" in output or "engine.zero_stage" in output


def test_what_is_on_the_host_is_told_and_judged(tmp_path: Path) -> None:
    assert run("preset", "hh-7b", root=tmp_path)[0] == 0
    params = tmp_path / "params.yaml"
    text = params.read_text(encoding="utf-8").replace("offload: none", "offload: optimizer")
    params.write_text(text, encoding="utf-8")
    command = ("plan", "--model", "llama-7b", "--gpus", "8x80", "--host-memory")
    code, output = run(*command, "512", root=tmp_path)
    assert code == 0 and "offload optimizer" in output
    told = " ".join(output.split())
    assert "in host memory, of all processes: policy optim 105.4 + grad 34.4; critic optim" in told
    code, output = run(*command, "256", root=tmp_path)
    told = " ".join(output.split())
    assert code == 1 and "ppo: 8 processes take 411 GB of the host's 256" in told


def test_the_settings_of_the_workspace(tmp_path: Path) -> None:
    assert run("preset", "tiny", root=tmp_path)[0] == 0
    code, output = run("plan", "--gpus", "cpu", "--host-memory", "8", root=tmp_path)
    assert code == 0 and "params.yaml on cpu" in output.replace("\n", "")
    code, message = run("plan", "--variant", "lora", root=tmp_path)
    assert code == 1 and "--variant is of a preset" in message
    code, message = run("plan", "--gpus", "lots", root=tmp_path)
    assert code == 1 and "expected CARDSxGIGABYTES" in message


def test_host_memory_takes_the_place_of_what_is_here(tmp_path: Path) -> None:
    assert run("preset", "tiny", root=tmp_path)[0] == 0
    code, output = run("plan", "--host-memory", "0.1", root=tmp_path)
    assert code == 1 and "does not fit" in output
    card = parse_machine("1x24").with_host(8 * GB)
    assert (card.memory, card.host) == (24 * GB, 8 * GB)
    assert parse_machine("cpu", 64 * GB).with_host(8 * GB).memory == 8 * GB


def test_what_is_refused_before_a_plan_is_made(tmp_path: Path) -> None:
    assert run("preset", "tiny", root=tmp_path)[0] == 0
    code, output = run("plan", "--gpus", "1x80", "--flops", "0", root=tmp_path)
    assert code == 1 and "--flops 0: expected a rate" in output and "GB a card" not in output


def test_that_gpus_set_the_processes_is_told(tmp_path: Path) -> None:
    code, output = run(
        *("plan", "--preset", "hh-7b", "--gpus", "3x80", "--model", "llama-7b"), root=tmp_path
    )
    assert code == 1 and "is not a multiple of" in output
    assert "engine.processes: 3: set for 3 x 80 GB" in output.replace("\n", " ")


def test_the_doctor_warns_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("preset", "laptop", root=tmp_path)[0] == 0
    workspace = Workspace(tmp_path)
    settings = load_settings(workspace.params)
    for host, state in ((24, "ok"), (2, "note")):
        machine = parse_machine("cpu", host * GB)
        monkeypatch.setattr(plan_check, "local_machine", lambda machine=machine: machine)
        check = plan_check.plan_check(workspace, settings)
        assert (check.name, check.state) == ("plan", state)
    assert "may not fit, with a tenth to spare" in check.found
    assert "`rlhf plan`" in check.advice
