"""`make dvc.yaml`: write the stages' table and the code that each runs into dvc.yaml.

DVC decides from that file what is stale. What a stage reads, writes and is called is in
`rlhf/stages.py`; which code it runs is the closure of its imports (`rlhf/core/source.py`). The code
of an algorithm is not listed: `rlhf/.code/<name>` holds links to the files that it runs beyond those
that every algorithm shares, and the stage ppo depends on the folder that `ppo.algorithm` names. So
another algorithm, or a new file, makes nobody's finished stage stale.
"""

import shutil
from collections.abc import Sequence
from os.path import relpath
from pathlib import Path
from textwrap import indent
from typing import Any

from rlhf import registry
from rlhf.common.yaml import write_yaml
from rlhf.core.source import ROOT, closure
from rlhf.stages import STAGES, Stage

LINKS = Path("rlhf/.code")
_PLOTS = "# The curves over the steps."
# stages choose from these by name: all that stand there today are listed, whichever is chosen
_ALWAYS_LISTED = {
    "fetch": registry.SOURCES,
    "sft": registry.ENGINES,
    "reward": registry.ENGINES,
    "ppo": registry.ENGINES,
    "gold": registry.ENGINES,
    "evaluate": registry.JUDGES,
}
# folders whose files are listed one by one: a new file there makes nothing stale
_BY_FILE = (
    "rlhf/algorithms",
    "rlhf/data/sources",
    "rlhf/engine",
    "rlhf/evaluation/judges",
    "rlhf/rewards",
    "rlhf/rollout",
)


def main() -> None:
    """Write dvc.yaml and the links, in the project's root."""
    path = ROOT / "dvc.yaml"
    path.write_text(pipeline_text(path.read_text(encoding="utf-8")), encoding="utf-8")
    write_links(ROOT)


def pipeline_text(text: str) -> str:
    """The text of dvc.yaml with its stages as the table and the code have them.

    What stands above `stages:` and from the comment on the plots on stays.
    """
    head, _, rest = text.partition("stages:\n")
    _, plots, tail = rest.partition(_PLOTS)
    entries = [write_yaml({name: stage_entry(stage)}) for name, stage in STAGES.items()]
    body = "\n".join(indent(entry, "  ") for entry in entries)
    return f"{head}stages:\n{body}\n{plots}{tail}"


def stage_entry(stage: Stage) -> dict[str, Any]:
    """One stage as dvc.yaml has it."""
    entry: dict[str, Any] = {
        "desc": stage.about,
        "cmd": f"python -m flows.{stage.name}",
        "deps": ["requirements.lock", *data_of(stage), *code_of(stage)],
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
    return [*tables, *models, *(path for path in stage.reads if not path.startswith("rlhf/"))]


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


def code_of(stage: Stage) -> list[str]:
    """The code that a stage runs, whole folders where all that is in them is run."""
    own = [path for path in stage.reads if path.startswith("rlhf/")]
    files = [path for path in shared_code(stage) if not _covered(path, own)]
    listed = sorted({*own, *folded(files)})
    if stage.name == "ppo":
        listed.append(f"{LINKS}/${{ppo.algorithm}}")
    return listed


def shared_code(stage: Stage) -> list[Path]:
    """The files that a stage runs whatever algorithm is chosen."""
    chosen = _ALWAYS_LISTED.get(stage.name, {})
    modules = [registry.module_of(chosen, name) for name in chosen]
    if stage.name == "ppo":
        for table in (registry.SAMPLERS, registry.REWARDS):
            modules += [registry.module_of(table, name) for name in table]
    return closure([stage.module, *modules])


def folded(files: Sequence[Path]) -> list[str]:
    """Paths of files, or of their folder where every file of it that holds code is among them."""
    found = []
    for path in files:
        whole = _has_no_choice(path.parent) and _code_in(path.parent) <= set(files)
        found.append(path.parent.as_posix() if whole else path.as_posix())
    return list(dict.fromkeys(found))


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
    """The name of a link: the file's path in the package, for two folders may have one name."""
    return ".".join(path.relative_to("rlhf").parts)


def _has_no_choice(folder: Path) -> bool:
    """Whether a folder holds neither what settings choose from nor other folders."""
    plain = folder.as_posix() not in _BY_FILE
    return plain and not any((path / "__init__.py").is_file() for path in (ROOT / folder).iterdir())


def _code_in(folder: Path) -> set[Path]:
    files = (path.relative_to(ROOT) for path in (ROOT / folder).glob("*.py"))
    modules = [".".join(path.with_suffix("").parts) for path in files]
    return {path for path in closure(modules) if path.parent == folder}


def _covered(path: Path, listed: Sequence[str]) -> bool:
    return any(Path(entry) in path.parents for entry in listed)


if __name__ == "__main__":
    main()
