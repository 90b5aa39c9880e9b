import sys
from pathlib import Path

import pytest

from rlhf.common.yaml import parse_yaml
from rlhf.settings import Settings, preset_text, settings_from
from rlhf.stages import STAGES
from tasks import worker
from tasks.worker import worker_command, worker_environment


def settings_with(**engine: object) -> Settings:
    content = parse_yaml(preset_text("tiny"), "tiny")
    content["engine"] = {**content["engine"], **engine}
    content["ppo"]["mini_batch"] = content["ppo"]["rollouts"] = 8
    content["ppo"]["micro_batch"] = 2
    return settings_from(content)


def test_one_process_needs_no_launcher() -> None:
    assert worker_command("ppo", settings_with()) == [
        sys.executable,
        "-m",
        "rlhf.commands.worker",
        "ppo",
    ]


def test_only_training_runs_under_torchrun() -> None:
    settings = settings_with(kind="deepspeed", processes=2)
    launched = {
        stage for stage in STAGES if "torch.distributed.run" in worker_command(stage, settings)
    }
    assert launched == {"sft", "reward", "dpo", "process", "ppo", "gold"}
    assert worker_command("sft", settings)[-5:] == [
        "--nproc-per-node",
        "2",
        "-m",
        "rlhf.commands.worker",
        "sft",
    ]
    assert "OMP_NUM_THREADS" in worker_environment("sft", settings, {})


def test_only_fetch_may_use_the_network() -> None:
    offline = {
        stage
        for stage in STAGES
        if "HF_HUB_OFFLINE" in worker_environment(stage, settings_with(), {})
    }
    assert offline == set(STAGES) - {"fetch"}


@pytest.mark.parametrize("gpu", [True, False])
def test_the_allocator_is_set_where_there_is_no_gpu(
    gpu: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_GPU", tmp_path if gpu else tmp_path / "nvidiactl")
    monkeypatch.setattr(sys, "platform", "linux")
    environment = worker_environment("sft", settings_with(), {"KEPT": "1"})
    assert ("GLIBC_TUNABLES" in environment) is not gpu
    assert environment["KEPT"] == "1"
    own = worker_environment("sft", settings_with(), {"GLIBC_TUNABLES": "mine"})
    assert own["GLIBC_TUNABLES"] == "mine"
