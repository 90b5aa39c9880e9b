"""dvc.yaml against the code: what a stage runs and reads must make it stale when it changes."""

import ast
from pathlib import Path
from typing import Any

import pytest

from rlhf.commands.worker import stage_function
from rlhf.common.yaml import parse_yaml, read_yaml
from rlhf.settings import preset_names, preset_text
from rlhf.workspace import STAGES, Workspace
from tests.source_tree import ROOT, closure

PIPELINE: dict[str, Any] = read_yaml(ROOT / "dvc.yaml")

# What cannot change an output: reading settings (their values are params), names of files, writing, progress, messages.
WITHOUT_EFFECT = (
    "rlhf/__init__.py",  # the version
    "rlhf/settings",
    "rlhf/workspace.py",
    "rlhf/common/errors.py",
    "rlhf/common/files.py",
    "rlhf/common/memory.py",
    "rlhf/common/metrics.py",
    "rlhf/common/progress.py",
)

MODULES = {
    "fetch": "rlhf.data.fetch",
    "prepare": "rlhf.data.prepare",
    "sft": "rlhf.training.sft",
    "reward": "rlhf.training.reward",
    "ppo": "rlhf.training.loop",
    "gold": "rlhf.training.reward",
    "evaluate": "rlhf.evaluation.evaluate",
    "report": "rlhf.report.build",
}


def covered(path: Path, listed: list[str]) -> bool:
    return any(path == Path(entry) or Path(entry) in path.parents for entry in listed)


def has_code(path: Path) -> bool:
    """Whether a file holds more than its docstring."""
    return len(ast.parse((ROOT / path).read_text(encoding="utf-8")).body) > 1


def outs_of(stage: dict[str, Any]) -> list[str]:
    return [*stage["outs"], *stage.get("metrics", [])]


def test_the_stages_are_the_eight_in_their_order() -> None:
    assert tuple(PIPELINE["stages"]) == STAGES
    assert [stage["cmd"] for stage in PIPELINE["stages"].values()] == [
        f"python -m flows.{name}" for name in STAGES
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_that_a_stage_runs_is_a_dependency(stage: str) -> None:
    listed = [*PIPELINE["stages"][stage]["deps"], *WITHOUT_EFFECT]
    files = {path for path in closure(MODULES[stage]) if has_code(path)}
    assert files, f"{MODULES[stage]} was not found"
    missing = sorted(str(path) for path in files if not covered(path, listed))
    assert not missing, f"{stage} runs {', '.join(missing)}: list them in dvc.yaml"


@pytest.mark.parametrize("stage", STAGES)
def test_code_that_a_stage_does_not_run_is_no_dependency(stage: str) -> None:
    """A directory may hold more than is run, but not be run at all."""
    files = closure(MODULES[stage])
    code = [entry for entry in PIPELINE["stages"][stage]["deps"] if entry.startswith("rlhf/")]
    data = ("rlhf/data/starter", "rlhf/presets")
    idle = [
        entry
        for entry in code
        if entry not in data and not any(covered(path, [entry]) for path in files)
    ]
    assert not idle


@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage != "gold"])
def test_the_modules_are_those_that_the_worker_runs(stage: str) -> None:
    function = stage_function(stage)
    module = function.__module__
    assert module in (
        MODULES[stage],
        "rlhf.commands.worker",
    )  # the reward model's function is bound to its role there


@pytest.mark.parametrize("preset", preset_names())
@pytest.mark.parametrize("stage", STAGES)
def test_params_exist_in_every_preset(stage: str, preset: str) -> None:
    content = parse_yaml(preset_text(preset), preset)
    for key in PIPELINE["stages"][stage]["params"]:
        node: Any = content
        for part in key.split("."):
            assert part in node, f"{preset} has no {key}, which {stage} depends on"
            node = node[part]


@pytest.mark.parametrize("preset", preset_names())
def test_every_section_of_a_preset_makes_some_stage_stale(preset: str) -> None:
    used = {key.split(".")[0] for stage in PIPELINE["stages"].values() for key in stage["params"]}
    assert set(parse_yaml(preset_text(preset), preset)) <= used


def test_changes_of_ppo_reach_only_what_follows_it() -> None:
    using = {name for name, stage in PIPELINE["stages"].items() if "ppo" in stage["params"]}
    assert using == {"ppo", "report"}


def test_every_stage_writes_its_metrics_and_every_dependency_is_code_or_written() -> None:
    workspace = Workspace()
    written = [out for stage in PIPELINE["stages"].values() for out in outs_of(stage)]
    assert len(written) == len(set(written))
    for name, stage in PIPELINE["stages"].items():
        if name != "report":
            assert stage["metrics"] == [str(workspace.metrics(name))]
        for entry in stage["deps"]:
            entry = entry.replace(f"${{{name}.initial}}", "sft")
            assert covered(Path(entry), written) or (ROOT / entry).exists(), (
                f"{name}: {entry} is neither"
            )


def test_plots_read_files_that_stages_write_and_have_titles() -> None:
    written = [out for stage in PIPELINE["stages"].values() for out in outs_of(stage)]
    plotted = set()
    for plot in PIPELINE["plots"]:
        for name, properties in plot.items():
            assert properties["title"] == name
            assert properties["x"] == "step"
            assert set(properties["y"]) <= set(written)
            plotted |= {key for keys in properties["y"].values() for key in keys}
    assert {"reward", "kl", "perplexity", "response_length", "value_loss"} <= plotted
