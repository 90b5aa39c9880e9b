"""The server's process: its command line, and that it ends with whoever started it, however that ends."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import EOS, PAD, tiny_model

from rlhf.common.errors import SettingsError, TrainingError
from rlhf.engine import make_engine
from rlhf.rollout.sampler import SamplerPlace, SamplingRule
from rlhf.rollout.vllm import VllmSampler
from rlhf.rollout.vllm_server import VllmServer, keep, server_command, server_environment
from rlhf.settings.sampling import VllmSettings
from rlhf.settings.training import EngineSettings
from tests.source_tree import ROOT
from tests.waiting import is_gone, wait_until, wait_until_gone


def settings_of(**changes: Any) -> VllmSettings:
    return VllmSettings.model_validate({"python": sys.executable, **changes})


# -- its command line -----------------------------------------------------------------------------


def test_the_command_line_on_a_cpu() -> None:
    settings = settings_of(cache_gib=0.5, arguments=["--max-num-seqs", "8"])
    command = server_command(settings, Path("/weights"), Path("/run/socket"), "fp32", on_cpu=True)
    line = " ".join(command)
    assert line.startswith(f"{sys.executable} -m vllm.entrypoints.openai.api_server ")
    for part in (
        "--model /weights",
        "--uds /run/socket",
        "--dtype float32",
        "--kv-cache-memory-bytes 536870912",
        "--logprobs-mode processed_logprobs",
        "--generation-config vllm",
        "--enforce-eager",
    ):
        assert part in line
    assert command[-2:] == ["--max-num-seqs", "8"]
    assert "--host" not in line and "--port" not in line


def test_on_a_gpu_it_computes_in_the_engine_s_precision_with_graphs() -> None:
    command = server_command(settings_of(), Path("/w"), Path("/s"), "bf16", on_cpu=False)
    assert "--enforce-eager" not in command
    assert command[command.index("--dtype") + 1] == "bfloat16"


def test_its_environment_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = {"PYTHONPATH", "RANK", "MASTER_PORT", "TORCHELASTIC_RUN_ID"}
    secrets = {"OPENAI_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "VLLM_API_KEY", "PGPASSWORD"}
    for name in ours | secrets | {"SOMETHING_ELSE", "NCCL_DEBUG"}:
        monkeypatch.setenv(name, "7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = server_environment(settings_of(devices="1"), tmp_path, on_cpu=False)
    assert not (ours | secrets | {"SOMETHING_ELSE", "OMP_NUM_THREADS"}) & found.keys()
    assert found["PATH"] == os.environ["PATH"] and found["NCCL_DEBUG"] == "7"
    assert found["VLLM_SERVER_DEV_MODE"] == found["VLLM_NO_USAGE_STATS"] == "1"
    assert found["CUDA_VISIBLE_DEVICES"] == "1" and found["TMPDIR"] == str(tmp_path)
    on_cpu = server_environment(settings_of(), tmp_path, on_cpu=True)
    assert on_cpu["OMP_NUM_THREADS"] == str(torch.get_num_threads())


@pytest.mark.parametrize("path", ["/nowhere/bin/python", "/tmp", __file__])
def test_no_python_there(path: str) -> None:
    with pytest.raises(SettingsError, match=rf"sampling\.vllm\.python: {path}: no program"):
        server_command(settings_of(python=path), Path("/w"), Path("/s"), "fp32", on_cpu=True)


def test_without_a_python_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine = make_engine(EngineSettings(threads=1))
    with pytest.raises(SettingsError, match="/nowhere/python: no program"):
        VllmServer(settings_of(python="/nowhere/python"), engine, tmp_path / "w", tmp_path / "log")
    assert not list(tmp_path.iterdir())


# -- its life -------------------------------------------------------------------------------------

# a server that has started another process, as vLLM does
SERVER = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
with open(sys.argv[1] + ".partial", "w") as stream:
    stream.write(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".partial", sys.argv[1])
child.wait()
"""
HEEDS_NOTHING = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"
OWNER = """
import os, sys, time
from pathlib import Path
from rlhf.rollout.vllm_server import keep
command = [sys.executable, "-c", sys.argv[2], sys.argv[1]]
keeper = keep(command, os.environ, Path(sys.argv[3]), Path(sys.argv[1] + ".log"))
time.sleep(3600)
"""


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_it_ends_with_the_process_that_started_it(tmp_path: Path, signum: int) -> None:
    pids, folder = tmp_path / "pids", tmp_path / "sockets"
    folder.mkdir()
    arguments = [str(pids), SERVER, str(folder)]
    owner = subprocess.Popen([sys.executable, "-c", OWNER, *arguments], cwd=ROOT)
    wait_until(pids.exists, "the server did not start")
    server, child = map(int, pids.read_text().split())
    assert not is_gone(server) and not is_gone(child)
    owner.send_signal(signum)
    owner.wait()
    wait_until_gone(server, child)
    wait_until(lambda: not folder.exists(), "the folder of sockets is still there")


def test_it_ends_once_the_keeper_s_standard_input_is_closed(tmp_path: Path) -> None:
    """Even one that heeds no SIGTERM."""
    pids = tmp_path / "pids"
    command = [sys.executable, "-c", f"{HEEDS_NOTHING}\n{SERVER}", str(pids)]
    keeper = keep(command, os.environ, tmp_path / "sockets", tmp_path / "log")
    wait_until(pids.exists, "the server did not start")
    assert keeper.stdin is not None
    keeper.stdin.close()
    keeper.wait()
    wait_until_gone(*map(int, pids.read_text().split()))


def test_it_ends_with_its_keeper(tmp_path: Path) -> None:
    pids, folder = tmp_path / "pids", tmp_path / "sockets"
    folder.mkdir()
    command = [sys.executable, "-c", SERVER, str(pids)]
    keeper = keep(command, os.environ, folder, tmp_path / "log")
    wait_until(pids.exists, "the server did not start")
    keeper.terminate()
    assert keeper.wait() == 128 + signal.SIGTERM
    wait_until_gone(*map(int, pids.read_text().split()))
    assert not folder.exists()


def test_a_server_that_cannot_be_started_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    folder.mkdir()
    keeper = keep(["/nowhere/python"], os.environ, folder, tmp_path / "log")
    assert keeper.wait() == 1
    assert not folder.exists()


def test_a_server_that_dies_is_told_with_its_first_fault_and_its_log(tmp_path: Path) -> None:
    """This environment has no vLLM; the message is what a wrong python gives."""
    place = SamplerPlace(settings_of(), tmp_path / "sampler", tmp_path / "logs" / "vllm.log")
    rule = SamplingRule(max_new_tokens=6, eos_id=EOS, pad_id=PAD)
    sampler = VllmSampler(tiny_model(5), make_engine(EngineSettings(threads=1)), rule, place)
    with pytest.raises(TrainingError) as error:
        sampler.refresh()
    assert "the server has ended with exit code 1: " in str(error.value)
    assert "No module named 'vllm'" in str(error.value)
    assert f"its log is {tmp_path / 'logs' / 'vllm.log'}" in str(error.value)
