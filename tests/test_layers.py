"""The contracts of the layers: a file imports only from layers below its own."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.source_tree import ROOT, imported_names, module_file, module_name

ORCHESTRATION = ("prefect", "mlflow", "dvc")

# from the bottom up; a name stands for a module or for a package with all that is in it
LAYERS = (
    ("rlhf.common", "rlhf.registry", "rlhf.workspace"),
    ("rlhf.core",),
    ("rlhf.settings", "rlhf.presets"),
    # what judges are given and give back
    ("rlhf.evaluation.types",),
    ("rlhf.stage",),
    ("rlhf.stages",),
    ("rlhf.watched",),
    ("rlhf.batches",),
    ("rlhf.data",),
    ("rlhf.engine",),
    ("rlhf.models",),
    ("rlhf.plan",),
    ("rlhf.ppo",),
    ("rlhf.rollout",),
    # a base model is proved with the code that will read it
    ("rlhf.data.fetch", "rlhf.data.base_model", "rlhf.data.proofs"),
    ("rlhf.rewards",),
    # algorithms ask judges to rank pairs
    (
        "rlhf.evaluation.judges",
        "rlhf.evaluation.both_orders",
        "rlhf.evaluation.endpoints",
        "rlhf.evaluation.answer_cache",
        "rlhf.evaluation.agreement",
    ),
    ("rlhf.algorithms",),
    ("rlhf.training",),
    ("rlhf.evaluation",),
    ("rlhf.studies",),
    ("rlhf.report", "rlhf.annotation"),
    ("rlhf.commands",),
    ("tasks",),
    ("flows",),
)
# what tasks and flows may know: settings, names of files and how to read them, what is listed
KNOWN_TO_TASKS = (
    "rlhf.commands.package_checks",
    "rlhf.common",
    "rlhf.core.source",
    "rlhf.core.steps",
    "rlhf.registry",
    "rlhf.settings",
    "rlhf.stage",
    "rlhf.stages",
    "rlhf.watched",
    "rlhf.workspace",
    "rlhf.studies.arms",
    "rlhf.studies.figures",
)

PACKAGES = ("rlhf", "tasks", "flows")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def layer_of(name: str) -> int | None:
    """The position of the longest name that covers `name`."""
    covering = {
        len(part): position
        for position, layer in enumerate(LAYERS)
        for part in layer
        if name == part or name.startswith(f"{part}.")
    }
    return covering[max(covering)] if covering else None


def package_of(path: Path) -> str:
    """The package at the root that a file is in."""
    return path.relative_to(ROOT).parts[0]


def imports(is_meant: Callable[[Path, str], bool]) -> list[str]:
    """Every import of the project that is meant, with its place."""
    return [
        f"{path}:{line}: {name}"
        for path in SOURCES
        for line, name in imported_names(path)
        if is_meant(path, name)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_from_layers_below(path: Path) -> None:
    module = module_name(path)
    if module == "rlhf":
        assert imported_names(path) == []
        return
    own = layer_of(module)
    assert own is not None, f"{module}: LAYERS does not have it"
    for line, name in imported_names(path):
        target = layer_of(name)
        if module_file(name) is not None and target is not None:
            assert target <= own, (
                f"{path}:{line}: {module} imports {name} from a layer above; LAYERS says which"
            )


def test_rlhf_does_without_the_orchestration() -> None:
    above = (*ORCHESTRATION, "tasks", "flows")
    assert not imports(
        lambda path, name: package_of(path) == "rlhf" and name.split(".")[0] in above
    )


def test_only_the_engine_imports_deepspeed() -> None:
    engine = ROOT / "rlhf" / "engine"
    assert not imports(
        lambda path, name: name.split(".")[0] == "deepspeed" and engine not in path.parents
    )


def test_flows_and_tasks_import_no_training_code() -> None:
    """They run it in a process of its own."""

    def is_training_code(path: Path, name: str) -> bool:
        outside = package_of(path) != "rlhf"
        return outside and name.startswith("rlhf.") and not name.startswith(KNOWN_TO_TASKS)

    assert not imports(is_training_code)


def test_no_two_test_files_share_a_name() -> None:
    """pytest imports them by their bare name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
