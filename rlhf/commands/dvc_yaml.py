"""`make dvc.yaml`: write the table of stages, and the code that each runs, into dvc.yaml.

DVC decides from that file what is stale. What a stage reads, writes and is called is in
`rlhf/stages.py`; which code it runs is the closure of its imports (`rlhf/core/source.py`).

What settings choose by name is listed once a preset or params.yaml chooses it, and stays listed. The
algorithm is not listed: `rlhf/.code/<name>` holds links to the files that it runs beyond those that
all algorithms share, and the stage ppo depends on the folder that `ppo.algorithm` names. So a new
file, or another algorithm, makes nobody's finished stage stale.
"""

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from os.path import relpath
from pathlib import Path
from textwrap import indent
from typing import Any

from rlhf import registry
from rlhf.common.command import exit_on_fault
from rlhf.common.files import write_text
from rlhf.common.yaml import parse_yaml, write_yaml
from rlhf.core.source import ROOT, closure
from rlhf.settings import Settings, load_settings, preset_names, preset_text, settings_from
from rlhf.stages import STAGES, Stage
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
# where the text behind the stages begins: a line that is not indented
_BEHIND = re.compile(r"^(?=\S)", re.MULTILINE)


def main() -> None:
    """Write dvc.yaml and the links, in the project's root."""
    path = ROOT / "dvc.yaml"
    with exit_on_fault():
        write_text(path, pipeline_text(path.read_text(encoding="utf-8")))
        write_links(ROOT)


def pipeline_text(text: str) -> str:
    """The text of dvc.yaml with the table's stages as the table and the code have them.

    What a user added stays: stages, keys of a stage, options of an output, and all that stands above
    or behind the stages.
    """
    listed = parse_yaml(text, "dvc.yaml").get("stages", {})
    entries = {name: stage_entry(stage, listed.get(name, {})) for name, stage in STAGES.items()}
    entries |= {name: entry for name, entry in listed.items() if name not in STAGES}

    head, _, rest = text.partition("stages:\n")
    behind = _BEHIND.search(rest)
    tail = rest[behind.start() :] if behind else ""
    body = "\n".join(indent(write_yaml({name: entry}), "  ") for name, entry in entries.items())
    return f"{head}stages:\n{body}\n{tail}" if tail else f"{head}stages:\n{body}"


def stage_entry(stage: Stage, before: Mapping[str, Any]) -> dict[str, Any]:
    """One stage as dvc.yaml has it; `before` is what stands there."""
    # an output with options is a mapping of its path
    options = {next(iter(out)): out for out in before.get("outs", []) if isinstance(out, Mapping)}
    listed = before.get("deps", [])
    entry: dict[str, Any] = {
        "desc": stage.about,
        "cmd": f"python -m flows.{stage.name}",
        "deps": ["requirements.lock", *data_of(stage), *code_of(stage, listed)],
        "params": list(stage.params),
        "outs": [options.get(path, path) for path in stage.outs],
    }
    if stage.dvc_metrics:
        entry["metrics"] = stage.dvc_metrics
    return entry | {key: value for key, value in before.items() if key not in entry}


def data_of(stage: Stage) -> list[str]:
    """The tables, models and other paths that a stage reads."""
    tables = [f"data/prepared/{name}.parquet" for name in stage.tables]
    models = [f"models/{name}" for name in stage.models]
    others = [path for path in stage.reads if not path.startswith("rlhf/")]
    return [*tables, *models, *others]


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
    run = {name for one in _known_settings() for name in stage.modules(one)}
    return closure([*sorted(run - algorithms), *_listed_modules(stage, listed)])


def folded(files: Sequence[Path]) -> list[str]:
    """Paths of files, or of their folder where every file of it that holds code is among them.

    A file outside of the project stands alone.
    """
    paths = []
    for path in files:
        folder = path.parent
        by_file = path.is_absolute() or folder.as_posix() in _BY_FILE
        whole = not by_file and _code_in(folder) <= set(files)
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
    """A link's name: the file's place without `.py`, or tools would read it twice."""
    place = path.with_suffix("").as_posix().removeprefix("rlhf/")
    return place.strip("/").replace("/", ".")


def _known_settings() -> list[Settings]:
    """Those of all presets, and those of params.yaml."""
    presets = [settings_from(parse_yaml(preset_text(name), name)) for name in preset_names()]
    return [*presets, load_settings(Workspace(ROOT).params)]


def _listed_modules(stage: Stage, listed: Iterable[str]) -> list[str]:
    """What can be chosen for a stage and was listed before."""
    # the algorithm is watched through its links
    tables = [choice.table for choice in stage.choices if choice.table is not registry.ALGORITHMS]
    known = set().union(*(_modules(table) for table in tables))
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
