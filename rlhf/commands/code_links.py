"""`rlhf/.code`: the code that DVC watches, as folders of links that `make dvc.yaml` makes.

stages/<stage>: the files that a stage runs, whatever algorithm is chosen
algorithms/<name>: those that an algorithm runs beyond what the stage ppo runs anyway

Which files these are is the closure of the imports (`rlhf/core/source.py`). What settings choose by
name is linked once a preset or params.yaml chooses it, and stays linked; files of the user's that
params.yaml names, while it names them. So a new file, or another
algorithm, makes nobody's finished stage stale. DVC reads through a link to a file, but passes over
one to a folder.

An algorithm's folder may hold files beside its links, which stages write: they stand for the models
of optional stages that the algorithm reads (`rlhf/stage.py`: `stand_in`).
"""

from collections.abc import Collection, Mapping
from os.path import relpath
from pathlib import Path

from rlhf import registry
from rlhf.common.yaml import parse_yaml
from rlhf.core.source import ROOT, closure, file_of
from rlhf.settings import Settings, load_settings, preset_names, preset_text, settings_from
from rlhf.stage import Stage
from rlhf.stages import STAGES
from rlhf.workspace import Workspace

LINKS = Path("rlhf/.code")


def stage_folder(stage: str) -> Path:
    """The links of a stage."""
    return LINKS / "stages" / stage


def algorithm_folder(algorithm: str) -> Path:
    """The links of an algorithm."""
    return LINKS / "algorithms" / algorithm


def write_links(root: Path) -> None:
    """Make all folders of links anew; what stages write there stays."""
    folders = linked_code(root)
    _remove_links(root)
    for folder, files in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for path in files:
            link = root / folder / link_name(path)
            link.symlink_to(relpath(root / path, link.parent))


def links_of(root: Path) -> list[str]:
    """The links that there are, by their paths in the project."""
    links = (path for path in (root / LINKS).rglob("*") if path.is_symlink())
    return sorted(path.relative_to(root).as_posix() for path in links)


def _remove_links(root: Path) -> None:
    """All but the files that stand for models, which are outputs of stages; folders of nothing go too."""
    written = {root / path for stage in STAGES.values() for path in stage.stand_ins}
    # from the deepest on
    for path in sorted((root / LINKS).rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in written:
            path.unlink()


def linked_code(root: Path) -> dict[Path, list[Path]]:
    """Folder of links -> the files that belong there, those that it has from an earlier choice included."""
    stages = {
        stage_folder(stage.name): code_of(stage, _targets(root / stage_folder(stage.name)))
        for stage in STAGES.values()
    }
    algorithms = {algorithm_folder(name): code_of_algorithm(name) for name in registry.ALGORITHMS}
    return stages | algorithms


def code_of(stage: Stage, linked: Collection[Path] = ()) -> list[Path]:
    """The files that a stage runs whatever algorithm is chosen.

    linked: files that its folder has already
    """
    algorithms = _modules(registry.ALGORITHMS)
    run = {name for one in _known_settings() for name in stage.modules(one)} - algorithms
    chosen_before = {name for name in _choosable(stage) if _file(name) in linked}
    # what it reads it depends on already
    return [
        path
        for path in closure(sorted(run | chosen_before))
        if not any(Path(read) in path.parents for read in stage.reads)
    ]


def code_of_algorithm(algorithm: str) -> list[Path]:
    """The files that an algorithm runs beyond those of the stage ppo."""
    module = registry.module_of(registry.ALGORITHMS, algorithm)
    shared = set(code_of(STAGES["ppo"]))
    return [path for path in closure([module]) if path not in shared]


def link_name(path: Path) -> str:
    """A link's name: the file's place without `.py`, or tools would read it twice.

    A file beside the package is the user's: its name must be none of the package's.
    """
    place = path.with_suffix("").as_posix()
    is_ours = place.startswith("rlhf/") or path.is_absolute()
    place = place.removeprefix("rlhf/") if is_ours else f"own/{place}"
    return place.strip("/").replace("/", ".")


def _targets(folder: Path) -> set[Path]:
    return {link.resolve() for link in folder.iterdir()} if folder.is_dir() else set()


def _known_settings() -> list[Settings]:
    """Those of all presets, and those of params.yaml."""
    presets = [settings_from(parse_yaml(preset_text(name), name)) for name in preset_names()]
    return [*presets, load_settings(Workspace(ROOT).params)]


def _choosable(stage: Stage) -> set[str]:
    """The modules that settings can choose for a stage; algorithms have links of their own."""
    tables = [choice.table for choice in stage.choices if choice.table is not registry.ALGORITHMS]
    return set().union(*(_modules(table) for table in tables))


def _modules(table: Mapping[str, str]) -> set[str]:
    return {registry.module_of(table, name) for name in table}


def _file(module: str) -> Path | None:
    path = file_of(module)
    return path.resolve() if path else None
