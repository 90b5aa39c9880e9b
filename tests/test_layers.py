"""The contracts of the layers: a file imports only from layers below its own."""

from pathlib import Path

import pytest

from tests.source_tree import ROOT, imported_names, module_file, module_name

ORCHESTRATION = ("prefect", "mlflow", "dvc")

# From the bottom up; a name stands for a module or for a package with all that is in it.
LAYERS = (
    ("rlhf.common", "rlhf.registry", "rlhf.workspace"),
    ("rlhf.core",),
    ("rlhf.settings", "rlhf.presets"),
    ("rlhf.stages",),
    ("rlhf.batches",),
    ("rlhf.data",),
    ("rlhf.engine",),
    ("rlhf.models",),
    ("rlhf.ppo",),
    ("rlhf.rollout",),
    ("rlhf.rewards",),
    ("rlhf.algorithms",),
    ("rlhf.training",),
    ("rlhf.evaluation",),
    ("rlhf.studies",),
    ("rlhf.report", "rlhf.annotation"),
    ("rlhf",),  # the commands of users
    ("tasks",),
    ("flows",),
)

SOURCES = sorted(
    path for package in ("rlhf", "tasks", "flows") for path in (ROOT / package).rglob("*.py")
)


def layer_of(name: str) -> int | None:
    """The position of the longest name that covers `name`."""
    covering = {
        len(part): position
        for position, layer in enumerate(LAYERS)
        for part in layer
        if name == part or name.startswith(f"{part}.")
    }
    return covering[max(covering)] if covering else None


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_layers_below(path: Path) -> None:
    own = layer_of(module_name(path))
    assert own is not None
    for line, name in imported_names(path):
        target = layer_of(name)
        if module_file(name) not in (None, ROOT / "rlhf" / "__init__.py") and target is not None:
            assert target <= own, (
                f"{path}:{line}: {module_name(path)} imports {name} from a layer above; LAYERS says which"
            )


def test_rlhf_does_without_the_orchestration() -> None:
    found = [
        f"{path}:{line}: {name}"
        for path in SOURCES
        if "rlhf" in path.relative_to(ROOT).parts[:1]
        for line, name in imported_names(path)
        if name.split(".")[0] in (*ORCHESTRATION, "tasks", "flows")
    ]
    assert not found


def test_only_the_engine_imports_deepspeed() -> None:
    found = {
        path.relative_to(ROOT).parts[:2]
        for path in SOURCES
        for _, name in imported_names(path)
        if name.split(".")[0] == "deepspeed"
    }
    assert found <= {("rlhf", "engine")}


def test_flows_and_tasks_import_no_training_code() -> None:
    """They run it in a process of its own: what they may know is settings, names of files and how to read them."""
    allowed = (
        "rlhf.common",
        "rlhf.core.source",
        "rlhf.core.steps",
        "rlhf.settings",
        "rlhf.stages",
        "rlhf.workspace",
        "rlhf.studies.arms",
        "rlhf.studies.figures",
    )
    found = [
        f"{path}:{line}: {name}"
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] in ("tasks", "flows")
        for line, name in imported_names(path)
        if name.startswith("rlhf.") and not name.startswith(allowed)
    ]
    assert not found
