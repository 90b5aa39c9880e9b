"""`make dvc.yaml`: write the table of stages, and the code that each runs, into dvc.yaml.

DVC decides from that file what is stale. What a stage reads, writes and is called is in
`rlhf/stages.py`; which code it runs is the closure of its imports (`rlhf/core/source.py`).

What settings choose by name is listed once a preset or params.yaml chooses it, and stays listed. The
algorithm is not listed: `rlhf/.code/<name>` holds links to the files that it runs beyond those that
all algorithms share, and the stage ppo depends on the folder that `ppo.algorithm` names. So a new
file, or another algorithm, makes nobody's finished stage stale.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from os.path import relpath
from pathlib import Path
from textwrap import indent
from typing import Any

from rlhf import registry
from rlhf.common.yaml import parse_yaml, write_yaml
from rlhf.core.source import ROOT, closure
from rlhf.settings import Settings, load_settings, preset_names, preset_text, settings_from
from rlhf.stages import STAGES, Stage, chosen_modules
from rlhf.workspace import Workspace

LINKS = Path("rlhf/.code")
# folders whose files are listed one by one: not all of them are run
_BY_FILE = (
    "rlhf/algorithms",
    "rlhf/data/sources",
    "rlhf/engine",
    "rlhf/evaluation/judges",
    "rlhf/rewards",
    "rlhf/rollout",
)
_PLOTS = "# The curves over the steps."


def main() -> None:
    """Write dvc.yaml and the links, in the project's root."""
    path = ROOT / "dvc.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(pipeline_text(text), encoding="utf-8")
    write_links(ROOT)


def pipeline_text(text: str) -> str:
    """The text of dvc.yaml with its stages as the table and the code have them.

    What stands above `stages:` and from the comment on the plots on stays.
    """
    listed = parse_yaml(text, "dvc.yaml").get("stages", {})
    head, _, rest = text.partition("stages:\n")
    _, plots, tail = rest.partition(_PLOTS)
    entries = []
    for name, stage in STAGES.items():
        before = listed.get(name, {}).get("deps", [])
        entries.append(indent(write_yaml({name: stage_entry(stage, before)}), "  "))
    body = "\n".join(entries)
    return f"{head}stages:\n{body}\n{plots}{tail}"


def stage_entry(stage: Stage, listed: Sequence[str] = ()) -> dict[str, Any]:
    """One stage as dvc.yaml has it; `listed` are the dependencies that it had."""
    entry: dict[str, Any] = {
        "desc": stage.about,
        "cmd": f"python -m flows.{stage.name}",
        "deps": ["requirements.lock", *data_of(stage), *code_of(stage, listed)],
        "params": list(stage.params),
        "outs": written_by(stage),
    }
    if stage.summary:
        entry["metrics"] = [f"metrics/{stage.name}.json"]
    return entry


def data_of(stage: Stage) -> list[str]:
    """The tables, models and other paths that a stage reads."""
    tables = [f"data/prepared/{name}.parquet" for name in stage.tables]
    models = [f"models/{name}" for name in stage.models]
    others = [path for path in stage.reads if not path.startswith("rlhf/")]
    return [*tables, *models, *others]


def written_by(stage: Stage) -> list[str]:
    """What a stage writes beside its summary."""
    metrics = {
        f"metrics/{stage.name}.jsonl": stage.step_log,
        f"metrics/{stage.name}_details.json": stage.details,
        f"metrics/{stage.name}_samples.jsonl": stage.samples,
        f"metrics/{stage.name}_steps.json": stage.step_log,
    }
    model = [f"models/{stage.model}"] if stage.model else []
    return [*model, *stage.writes, *(path for path, written in metrics.items() if written)]


# -- code ---------------------------------------------------------------------------------------------


def code_of(stage: Stage, listed: Sequence[str] = ()) -> list[str]:
    """The code that a stage runs, whole folders where all that is in them is run."""
    own = [path for path in stage.reads if path.startswith("rlhf/")]
    files = [path for path in shared_code(stage, listed) if not _is_below(path, own)]
    paths = sorted({*own, *folded(files)})
    if stage.name == "ppo":
        paths.append(f"{LINKS}/${{ppo.algorithm}}")
    return paths


def shared_code(stage: Stage, listed: Sequence[str] = ()) -> list[Path]:
    """The files that a stage runs whatever algorithm is chosen."""
    algorithms = _modules(registry.ALGORITHMS)
    chosen = {name for one in _known_settings() for name in chosen_modules(stage.name, one)}
    modules = [stage.module, *sorted(chosen - algorithms), *_listed_modules(listed)]
    return closure(modules)


def folded(files: Sequence[Path]) -> list[str]:
    """Paths of files, or of their folder where every file of it that holds code is among them."""
    paths = []
    for path in files:
        folder = path.parent
        whole = folder.as_posix() not in _BY_FILE and _code_in(folder) <= set(files)
        paths.append(folder.as_posix() if whole else path.as_posix())
    return list(dict.fromkeys(paths))


def links_of(algorithm: str) -> list[Path]:
    """The files that an algorithm runs beyond those that the stage ppo lists."""
    module = registry.module_of(registry.ALGORITHMS, algorithm)
    shared = set(shared_code(STAGES["ppo"]))
    return [path for path in closure([module]) if path not in shared]


def write_links(root: Path) -> None:
    """Make `rlhf/.code` anew: a folder an algorithm, in it a link to each of its files."""
    shutil.rmtree(root / LINKS, ignore_errors=True)
    for algorithm in registry.ALGORITHMS:
        folder = root / LINKS / algorithm
        folder.mkdir(parents=True)
        for path in links_of(algorithm):
            link = folder / link_name(path)
            link.symlink_to(relpath(root / path, folder))


def link_name(path: Path) -> str:
    """A link's name: the file's module in the package, without `.py`, or tools read it twice."""
    return ".".join(path.with_suffix("").relative_to("rlhf").parts)


def _known_settings() -> list[Settings]:
    """Those of all presets, and those of params.yaml."""
    presets = [settings_from(parse_yaml(preset_text(name), name)) for name in preset_names()]
    return [*presets, load_settings(Workspace(ROOT).params)]


def _listed_modules(listed: Iterable[str]) -> list[str]:
    """What could be chosen and was listed before."""
    tables = (registry.ENGINES, registry.JUDGES, registry.REWARDS, registry.SAMPLERS)
    known = set().union(*(_modules(table) for table in (*tables, registry.SOURCES)))
    modules = {path.removesuffix(".py").replace("/", ".") for path in listed}
    return sorted(known & modules)


def _modules(table: Mapping[str, str]) -> set[str]:
    return {registry.module_of(table, name) for name in table}


def _code_in(folder: Path) -> set[Path]:
    """All files of a folder and below that hold code, whether or not that can change a number."""
    paths = (path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))
    return {path for path in paths if path.name != "__init__.py"}


def _is_below(path: Path, listed: Sequence[str]) -> bool:
    return any(Path(entry) in path.parents for entry in listed)


if __name__ == "__main__":
    main()
