"""The section `hosts`: what is refused by name, and what a hostfile may say."""

from pathlib import Path
from typing import Any

import pytest
from tiny import changed

from rlhf.common.errors import RlhfError, SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.settings import Settings, preset_text, settings_from
from rlhf.settings.hosts import Hosts, host_slots
from rlhf.stages import STAGES

MANY = {"engine.kind": "deepspeed", "engine.processes": 4, "ppo.micro_batch": 1}


def settings_with(changes: dict[str, Any]) -> Settings:
    content = parse_yaml(preset_text("tiny"), "tiny")
    return settings_from(changed(content, changes), "params.yaml")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hosts": {}}, "hosts: either slots, such as {gpu1: 8, gpu2: 8}, or file"),
        ({"hosts": {"slots": {"a": 4}, "file": "hostfile"}}, "hosts: either slots"),
        ({"hosts": {"slots": {}}}, "hosts.slots: must have at least 1 item"),
        ({"hosts": {"slots": {"a": 0, "b": 4}}}, "hosts.slots.a: must be greater than or equal"),
        # an option to ssh
        ({"hosts": {"slots": {"-oProxyCommand=x": 4}}}, "hosts.slots.-oProxyCommand=x"),
        ({"hosts": {"slots": {"a b": 4}}}, "hosts.slots.a b"),
        (
            {"hosts": {"slots": {"a": 2, "b": 3}}},
            "hosts.slots: the slots of 2 host(s) are 5 together, and engine.processes is 4",
        ),
        ({"hosts": {"slots": {"a": 4}, "launcher": "ssh"}}, "launcher: must name {host}"),
        ({"hosts": {"slots": {"a": 4}, "launcher": "ssh '{host}"}}, "launcher: No closing"),
        ({"hosts": {"slots": {"a": 4}, "port": 80}}, "hosts.port: must be greater than or equal"),
        ({"hosts": {"slots": {"a": 4}, "hostfile": "x"}}, "hosts.hostfile: unknown key"),
        (
            {"hosts": {"slots": {"a": 1}}, "engine.kind": "torch", "engine.processes": 1},
            "hosts needs engine.kind: deepspeed; torch is one process",
        ),
        (
            {
                "hosts": {"slots": {"a": 4}},
                "ppo.sampling.sampler": "vllm",
                "ppo.sampling.vllm": {"address": "http://127.0.0.1:1"},
            },
            "hosts needs another ppo.sampling.sampler than vllm",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_with({**MANY, **changes})
    assert told in str(caught.value)


def test_no_number_depends_on_where_the_processes_run() -> None:
    """No stage's parameters in DVC have them, which its fingerprint follows."""
    read = {key.split(".")[0] for stage in STAGES.values() for key in stage.params}
    assert "engine" in read
    assert "hosts" not in read


def test_a_command_of_the_shell_is_the_launchers_last_word() -> None:
    hosts = Hosts(slots={"gpu1": 1}, launcher="srun --nodelist '{host}' sh -c")
    command = "cd '/a b' && exec python"
    assert hosts.launching("gpu1", command) == ["srun", "--nodelist", "gpu1", "sh", "-c", command]
    assert Hosts(slots={"gpu1": 1}).launching("gpu1", command)[-2:] == ["gpu1", command]


def test_a_hostfile_is_read_as_others_read_it(tmp_path: Path) -> None:
    text = "# the first has rank 0\n\ngpu2 slots=3\ngpu1   slots=1 # smaller\n"
    (tmp_path / "hostfile").write_text(text)
    settings = settings_with({**MANY, "hosts": {"file": "hostfile"}})
    assert settings.hosts is not None
    slots = host_slots(settings.hosts, 4, tmp_path)
    assert list(slots.items()) == [("gpu2", 3), ("gpu1", 1)]


def test_its_path_may_hold_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a scheduler's job."""
    hosts = Hosts(file="hostfile.${JOB}")
    monkeypatch.delenv("JOB", raising=False)
    with pytest.raises(
        RlhfError, match=r"hosts.file:hostfile.*the environment variable JOB is not"
    ):
        host_slots(hosts, 1, tmp_path)
    monkeypatch.setenv("JOB", "7")
    (tmp_path / "hostfile.7").write_text("gpu1 slots=1\n")
    assert host_slots(hosts, 1, tmp_path) == {"gpu1": 1}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("gpu1 slots=2\ngpu2\n", "hostfile:2: expected `HOST slots=N`, found 'gpu2'"),
        ("gpu1 slots=0\n", "hostfile:1: expected"),
        ("-oProxyCommand=x slots=1\n", "hostfile:1: expected"),
        ("gpu1 slots=2\ngpu1 slots=2\n", "hostfile:2: gpu1 stands there twice"),
        ("# none\n", "hostfile: names no host"),
        ("gpu1 slots=2\ngpu2 slots=8\n", "hostfile: the slots of 2 host(s) are 10 together"),
    ],
)
def test_a_bad_hostfile_is_refused_by_its_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "hostfile").write_text(text)
    with pytest.raises(SettingsError) as caught:
        host_slots(Hosts(file="hostfile"), 4, tmp_path)
    assert told in str(caught.value)


def test_a_hostfile_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"hosts.file: .*/hostfile: No such file"):
        host_slots(Hosts(file="hostfile"), 4, tmp_path)
