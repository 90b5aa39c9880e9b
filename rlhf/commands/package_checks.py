"""Whether the packages that the chain needs are installed, as pinned, and can be imported."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

from rlhf.commands.check import Check

# what must be importable, and what it is for
IMPORTS = {
    "transformers": "models",
    "prefect.server.api.server": (
        "scheduling; a newer fastapi breaks it though pip finds nothing wrong"
    ),
    "mlflow": "tracking",
    "dvc.repo": "deciding what is stale",
    "deepspeed": "training in several processes",
    "peft": "training by adapters (lora)",
}

_WITHOUT_NETWORK = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
}
_INSTALL = 'pip install -e ".[dev]" -c requirements.lock'
_IMPORT_SECONDS = 180


# -- versions -------------------------------------------------------------------------------------


def pins_check(lock: Path) -> Check:
    """Installed versions against the lock file, and that nothing is missing that rlhf requires.

    The lock file may pin more than is installed.
    """
    missing = [name for name in _required_packages() if _installed_version(name) is None]
    if missing:
        return Check("versions", "fault", f"not installed: {', '.join(missing)}", _INSTALL)
    if not lock.is_file():
        advice = "run in the root of a clone to compare versions with its lock"
        return Check("versions", "note", f"no {lock}", advice)
    compared, different = 0, []
    for name, pinned in _read_pins(lock).items():
        version = _installed_version(name)
        if version is not None:
            compared += 1
            if version != pinned:
                different.append(f"{name} {version}, pinned {pinned}")
    if different:
        return Check("versions", "note", "; ".join(different), _INSTALL)
    return Check("versions", "ok", f"{compared} packages as pinned")


def _read_pins(lock: Path) -> dict[str, str]:
    pins = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        name, is_pin, version = line.split("#")[0].strip().partition("==")
        if is_pin:
            pins[name] = version
    return pins


def _required_packages() -> list[str]:
    """Names of the packages that rlhf cannot do without."""
    requirements = importlib.metadata.requires("rlhf") or []
    needed = [line for line in requirements if "extra ==" not in line]
    return [re.split(r"[^A-Za-z0-9._-]", line, maxsplit=1)[0] for line in needed]


def _installed_version(name: str) -> str | None:
    """A package's version without its build (2.13.0+cpu is 2.13.0)."""
    try:
        return importlib.metadata.version(name).split("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


# -- imports --------------------------------------------------------------------------------------


def start_import(name: str) -> subprocess.Popen[str]:
    """Begin to import a package in a process of its own; `import_check` waits for it."""
    return subprocess.Popen(
        [sys.executable, "-c", f"import {name}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | _WITHOUT_NETWORK,
    )


def import_check(name: str, process: subprocess.Popen[str]) -> Check:
    """Whether the import that was started ended well."""
    title = f"import {name}"
    try:
        _, errors = process.communicate(timeout=_IMPORT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Check(title, "note", "took more than 3 minutes", "is the machine very busy?")
    if process.returncode == 0:
        return Check(title, "ok", "works")
    lines = errors.strip().splitlines()
    reason = lines[-1] if lines else f"exit code {process.returncode}"
    advice = f"needed for {IMPORTS.get(name, '')}: install what requirements.lock pins"
    return Check(title, "fault", reason, advice)
