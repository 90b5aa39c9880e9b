"""`make dvc.yaml`: write the table of stages into dvc.yaml, and links to the code that each runs.

DVC decides from that file what is stale. What a stage reads, writes and is called is in
`rlhf/stages.py`; what it runs is behind the links of `rlhf/.code` (`rlhf/commands/code_links.py`).
"""

import re
from collections.abc import Collection, Mapping
from textwrap import indent
from typing import Any

from rlhf import registry
from rlhf.commands.code_links import algorithm_folder, links_of, stage_folder, write_links
from rlhf.common.command import exit_on_fault
from rlhf.common.files import write_text
from rlhf.common.yaml import parse_yaml, write_yaml
from rlhf.core.source import ROOT
from rlhf.stage import Stage
from rlhf.stages import STAGES

# where the text behind the stages begins: a line that is not indented
_BEHIND = re.compile(r"^(?=\S)", re.MULTILINE)


def main() -> None:
    """Write dvc.yaml and the links, in the project's root, and say what changed."""
    path = ROOT / "dvc.yaml"
    with exit_on_fault():
        before, links = path.read_text(encoding="utf-8"), links_of(ROOT)
        text = pipeline_text(before)
        write_text(path, text)
        write_links(ROOT)
        print(told(text != before, links, links_of(ROOT)))


def told(rewritten: bool, before: Collection[str], after: Collection[str]) -> str:
    """One line: whether dvc.yaml was rewritten, which links are new, and which are gone."""
    changes = {
        "rewritten": ["dvc.yaml"] if rewritten else [],
        "linked": sorted(set(after) - set(before)),
        "no longer linked": sorted(set(before) - set(after)),
    }
    parts = [f"{what}: {', '.join(names)}" for what, names in changes.items() if names]
    return "; ".join(parts) or "dvc.yaml and its links: nothing changed"


def pipeline_text(text: str) -> str:
    """The text of dvc.yaml with the table's stages as the table has them.

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
    entry: dict[str, Any] = {
        "desc": stage.about,
        "cmd": f"python -m flows.{stage.name}",
        "deps": ["requirements.lock", *data_of(stage), *code_folders(stage)],
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
    return [*tables, *models, *stage.reads]


def code_folders(stage: Stage) -> list[str]:
    """The folders of links to the code that a stage runs."""
    folders = [stage_folder(stage.name).as_posix()]
    if any(choice.table is registry.ALGORITHMS for choice in stage.choices):
        folders.append(algorithm_folder("${ppo.algorithm}").as_posix())
    return folders


if __name__ == "__main__":
    main()
