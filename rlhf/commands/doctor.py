"""What this machine and this workspace have and lack for running the chain, with advice in plain words.

Nothing heavy is imported on top: the doctor must be able to speak where packages are missing.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rlhf.commands.overview import stage_states
from rlhf.common.errors import RlhfError
from rlhf.settings import Settings, load_settings
from rlhf.workspace import Workspace

State = Literal["ok", "note", "fault"]
GIB = 1 << 30
IMPORTS = {  # what must be importable, and what it is for
    "transformers": "models",
    "prefect.server.api.server": "scheduling; a newer fastapi breaks it though pip finds nothing wrong",
    "mlflow": "tracking",
    "dvc.repo": "deciding what is stale",
    "deepspeed": "training in several processes",
}
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
}


@dataclass(frozen=True)
class Check:
    """One finding: `fault` where the chain cannot run, `note` where it runs with a limit that the advice names."""

    name: str
    state: State
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, and for each stage whether it is done."""

    checks: list[Check]
    stages: dict[str, bool]

    @property
    def healthy(self) -> bool:
        """Whether nothing essential is missing."""
        return all(check.state != "fault" for check in self.checks)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "healthy": self.healthy,
            "checks": [asdict(check) for check in self.checks],
            "stages": self.stages,
        }


def _cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def diagnose(workspace: Workspace, imports: Iterable[str]) -> Diagnosis:
    """Look at everything; takes as long as importing the packages named in `imports` (10 to 30 seconds for IMPORTS)."""
    started = {name: _start_import(name) for name in imports}
    check, settings = settings_check(workspace)
    checks = [
        python_check(sys.version_info[:2]),
        cores_check(_cores()),
        memory_check(_memory()),
        disk_check(shutil.disk_usage(workspace.root.resolve()).free),
        gpu_check(settings),
        bf16_check(_bf16_instructions(), settings),
        compiler_check(shutil.which("c++")),
        pins_check(workspace.root / "requirements.lock"),
        *(_import_check(name, process) for name, process in started.items()),
        check,
    ]
    if settings is not None:
        checks += [addresses_check(workspace, settings), judges_check(workspace, settings)]
    try:
        stages = {stage.name: stage.done for stage in stage_states(workspace)}
    except RlhfError as error:
        stages = {}
        checks.append(
            Check(
                "metrics",
                "fault",
                str(error),
                "run the stage that wrote this file again (dvc repro)",
            )
        )
    return Diagnosis(checks, stages)


def python_check(version: tuple[int, ...]) -> Check:
    """The pinned packages are for Python 3.11."""
    found = ".".join(map(str, version))
    if version == (3, 11):
        return Check("python", "ok", platform.python_version())
    return Check(
        "python",
        "fault",
        found,
        "make the virtual environment with Python 3.11; the pins are for it",
    )


def cores_check(cores: int) -> Check:
    """Cores that this process may use."""
    if cores >= 2:
        return Check("cores", "ok", str(cores))
    return Check(
        "cores",
        "note",
        str(cores),
        "expect twice the time of two cores; the preset tiny runs anywhere",
    )


def memory_check(total: int) -> Check:
    """Memory (bytes) against what the presets take: `laptop` about 7 GiB, `tiny` 2."""
    found = f"{total / GIB:.1f} GiB"
    if total < 2 * GIB:
        return Check("memory", "fault", found, "less than the preset tiny takes (2 GiB)")
    if total < 7 * GIB:
        advice = "PPO of the preset laptop takes about 7 GiB: lower ppo.micro_batch, set ppo.trainable_layers, or use tiny"
        return Check("memory", "note", found, advice)
    return Check("memory", "ok", found)


def disk_check(free: int) -> Check:
    """Free bytes against models, checkpoints and DVC's cache: `laptop` about 8 GiB."""
    found = f"{free / GIB:.1f} GiB free"
    if free < GIB:
        return Check(
            "disk", "fault", found, "make room: even the preset tiny needs some, laptop about 8 GiB"
        )
    if free < 8 * GIB:
        return Check(
            "disk",
            "note",
            found,
            "the preset laptop takes about 8 GiB of models, checkpoints and DVC cache",
        )
    return Check("disk", "ok", found)


def gpu_check(settings: Settings | None) -> Check:
    """GPUs that torch can use, against `engine.processes`."""
    try:
        import torch
    except ImportError as error:
        return Check(
            "gpu",
            "fault",
            f"torch: {error}",
            "install the pinned packages: pip install -e . -c requirements.lock",
        )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    processes = settings.engine.processes if settings is not None else 1
    if count == 0:
        there = shutil.which("nvidia-smi") is not None
        advice = (
            "torch cannot use the GPU here: install a CUDA build of the pinned torch"
            if there
            else ""
        )
        advice = advice or "not needed for the presets tiny, laptop and hh-small; hh-7b wants eight"
        return Check("gpu", "note", "none", advice)
    found = f"{count} x {torch.cuda.get_device_name(0)}"
    if processes > count:
        return Check(
            "gpu", "fault", found, f"engine.processes is {processes}; set it to at most {count}"
        )
    if processes < count:
        return Check(
            "gpu",
            "note",
            found,
            f"{processes} in use; engine.kind: deepspeed with more processes uses the others",
        )
    return Check("gpu", "ok", found)


def bf16_check(instructions: list[str], settings: Settings | None) -> Check:
    """Whether the processor is faster in bf16 than in fp32."""
    if instructions:
        return Check("bf16", "ok", ", ".join(instructions))
    forced = settings is not None and settings.engine.precision == "bf16"
    advice = "on this processor bf16 is slower than fp32" + (
        ": set engine.precision: auto" if forced else ""
    )
    return Check("bf16", "note", "no fast instructions", advice)


def compiler_check(path: str | None) -> Check:
    """A C++ compiler, which only DeepSpeed's own kernels need."""
    if path is not None:
        return Check("c++", "ok", path)
    return Check(
        "c++", "note", "none", "not needed here; DeepSpeed compiles its optional kernels with it"
    )


def pins_check(lock: Path) -> Check:
    """Installed versions against the lock file, which may pin more than is installed; and what rlhf itself requires."""
    advice = 'pip install -e ".[dev]" -c requirements.lock'
    missing = [name for name in _required() if _installed(name) is None]
    if missing:
        return Check("versions", "fault", f"not installed: {', '.join(missing)}", advice)
    if not lock.is_file():
        return Check(
            "versions",
            "note",
            f"no {lock}",
            "run in the root of a clone to compare versions with its lock",
        )
    lines = (line.split("#")[0].strip() for line in lock.read_text(encoding="utf-8").splitlines())
    pins = dict(line.split("==", 1) for line in lines if "==" in line)
    here = {name: version for name in pins if (version := _installed(name)) is not None}
    different = [
        f"{name} {here[name]}, pinned {pins[name]}" for name in here if here[name] != pins[name]
    ]
    if different:
        return Check("versions", "note", "; ".join(different), advice)
    return Check("versions", "ok", f"{len(here)} packages as pinned")


def _required() -> list[str]:
    """Names of the packages that rlhf cannot do without."""
    requirements = importlib.metadata.requires("rlhf") or []
    return [
        re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0]
        for line in requirements
        if "extra ==" not in line
    ]


def _installed(name: str) -> str | None:
    """A package's version without its build (2.13.0+cpu is 2.13.0)."""
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def settings_check(workspace: Workspace) -> tuple[Check, Settings | None]:
    """params.yaml, read as a stage reads it."""
    try:
        settings = load_settings(workspace.params)
    except RlhfError as error:
        return Check(
            "settings",
            "fault",
            str(error),
            "correct the key, or `rlhf preset NAME` for a whole file",
        ), None
    engine = settings.engine
    found = f"{workspace.params}: {settings.model.source}, {engine.kind}, {engine.precision}, {engine.processes} process(es)"
    return Check("settings", "ok", found), settings


def addresses_check(workspace: Workspace, settings: Settings) -> Check:
    """Where model and data come from, as far as that can be told without a network."""
    try:
        from rlhf.data.fetch import check_addresses  # takes seconds

        check_addresses(settings, workspace)
    except (RlhfError, ImportError, OSError) as error:
        return Check("model and data", "fault", str(error), "fetch would refuse to begin")
    return Check(
        "model and data",
        "ok",
        ", ".join(dict.fromkeys([settings.model.source, *settings.data.preferences])),
    )


def judges_check(workspace: Workspace, settings: Settings) -> Check:
    """Keys, files and directories that `evaluate.judges` and `evaluate.opponents` want, as evaluate looks for them."""
    section = settings.evaluate
    names = ", ".join((*section.judges, *section.opponents))
    addresses = [
        address for address in (*section.judges, *section.opponents.values()) if ":" in address
    ]
    prepared = (workspace.prepared / "prompts.parquet").is_file()
    ready = [address for address in addresses if prepared or not address.startswith("file:")]
    if ready:
        try:
            from rlhf.evaluation.evaluate import (
                check_ready,
            )  # takes seconds, and most settings need nothing of it

            check_ready(settings, workspace, ready)
        except (RlhfError, ImportError, OSError) as error:
            return Check("judges", "fault", str(error), "evaluate would refuse to begin")
    if len(ready) < len(addresses):
        return Check(
            "judges",
            "note",
            names,
            "the responses in a file: can be looked at once prepare has made the prompts",
        )
    return Check("judges", "ok", names)


def _start_import(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import {name}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | QUIET,
    )


def _import_check(name: str, process: subprocess.Popen[str]) -> Check:
    try:
        _, errors = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Check(
            f"import {name}", "note", "took more than 3 minutes", "is the machine very busy?"
        )
    if process.returncode == 0:
        return Check(f"import {name}", "ok", "works")
    reason = (
        errors.strip().splitlines()[-1] if errors.strip() else f"exit code {process.returncode}"
    )
    purpose = IMPORTS.get(name, "")
    return Check(
        f"import {name}",
        "fault",
        reason,
        f"needed for {purpose}: install what requirements.lock pins",
    )


def _memory() -> int:
    """Bytes that this process may use: the machine's, or the container's limit if that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    return min(total, int(text)) if text.isdigit() else total


def _bf16_instructions() -> list[str]:
    try:
        from rlhf.engine.precision import bf16_instructions
    except ImportError:  # the packages' own check names what is missing
        return []
    return bf16_instructions()
