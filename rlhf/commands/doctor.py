"""What this machine and this workspace have and lack for running the chain, with advice.

Nothing heavy is imported on top: the doctor must be able to speak where packages are missing.
"""

import shutil
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from rlhf.commands.check import Check
from rlhf.commands.hosts_check import hosts_check
from rlhf.commands.machine_checks import (
    bf16_check,
    bf16_instructions,
    compiler_check,
    cores_check,
    disk_check,
    gpu_check,
    memory_check,
    python_check,
    usable_memory,
)
from rlhf.commands.overview import stage_states
from rlhf.commands.package_checks import import_check, pins_check, start_import
from rlhf.commands.plan_check import plan_check
from rlhf.commands.workspace_checks import (
    addresses_check,
    code_check,
    judges_check,
    locks_check,
    model_check,
    rewards_check,
    sampler_check,
    settings_check,
    teacher_check,
)
from rlhf.common.errors import RlhfError
from rlhf.core.cores import usable_cores
from rlhf.workspace import Workspace


@dataclass(frozen=True)
class Diagnosis:
    """All checks, for each stage whether it is done, and the stages that the settings left out."""

    checks: list[Check]
    stages: dict[str, bool]
    off: list[str] = field(default_factory=list)

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
            "off": self.off,
        }


def diagnose(workspace: Workspace, imports: Iterable[str]) -> Diagnosis:
    """Check everything.

    Takes as long as importing the packages named in `imports`: 10 to 30 seconds for IMPORTS.
    """
    # they are imported while the rest is checked
    started = {name: start_import(name) for name in imports}
    settings_finding, settings = settings_check(workspace)
    checks = [
        python_check(sys.version_info[:2]),
        cores_check(usable_cores()),
        memory_check(usable_memory()),
        disk_check(shutil.disk_usage(workspace.root.resolve()).free),
        gpu_check(settings),
        bf16_check(bf16_instructions(), settings),
        compiler_check(shutil.which("c++")),
        pins_check(workspace.root / "requirements.lock"),
    ]
    checks += [import_check(name, process) for name, process in started.items()]
    checks += [settings_finding, locks_check(workspace)]
    # without settings there is nothing to check
    if settings is not None:
        if settings.hosts is not None:
            checks.append(hosts_check(workspace))
        addresses = addresses_check(workspace, settings)
        checks.append(addresses)
        # what is not found is told once
        if addresses.state != "fault":
            checks.append(model_check(workspace, settings))
        checks += [
            plan_check(workspace, settings),
            code_check(workspace, settings),
            rewards_check(workspace, settings),
            sampler_check(settings),
            judges_check(workspace, settings),
            teacher_check(workspace, settings),
        ]

    # a metrics file may be broken
    stages: dict[str, bool] = {}
    off: list[str] = []
    try:
        states = stage_states(workspace)
        stages = {stage.name: stage.done for stage in states}
        off = [stage.name for stage in states if stage.off]
    except RlhfError as error:
        advice = "run the stage that wrote this file again (dvc repro)"
        checks.append(Check("metrics", "fault", str(error), advice))
    return Diagnosis(checks, stages, off)
