"""`rlhf doctor` and the hosts of the settings."""

from pathlib import Path

import pytest
from tiny import tiny_settings, write_settings

from rlhf.commands.hosts_check import hosts_check
from rlhf.workspace import Workspace
from tests.host_launcher import write_launcher
from tests.source_tree import ROOT


def test_it_asks_each_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    workspace, launcher = Workspace(tmp_path), write_launcher(tmp_path)

    def check(launching: str) -> tuple[str, str]:
        hosts = {"slots": {"one": 1, "two": 1}, "launcher": launching}
        many = {"engine.kind": "deepspeed", "engine.processes": 2, "ppo.micro_batch": 2}
        write_settings(workspace, tiny_settings({**many, "hosts": hosts}))
        found = hosts_check(workspace)
        return found.state, found.found

    assert check(f"{launcher} {{host}}") == ("ok", "one x 1, two x 1")
    state, found = check(f"sh -c '[ {{host}} = two ] && exit 255; exec {launcher} one \"$1\"' x")
    assert state == "fault"
    assert found == "host two: could not be started (exit code 255 of its launcher)"
