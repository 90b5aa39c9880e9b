"""`python -m rlhf.evaluation.match CHALLENGER BASELINE OUTPUT`: two model directories, the workspace's prompts and judge.

OUTPUT is laid out as a workspace and gets what `evaluate` writes: the comparisons and the summary. Nothing else changes.
"""

import sys
from pathlib import Path

from rlhf.common.command import run_as_command
from rlhf.common.errors import RlhfError
from rlhf.common.files import staged_directory
from rlhf.common.metrics import write_summary
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.evaluate import compare, comparison_tables, judged_summary
from rlhf.settings import Settings, load_settings
from rlhf.workspace import Workspace


def match_settings(settings: Settings, challenger: Path, baseline: Path) -> Settings:
    """The settings with one comparison, of two directories, by the headline judge."""
    section = settings.evaluate.model_copy(
        update={
            "comparisons": (("challenger", "baseline"),),
            "opponents": {"challenger": f"path:{challenger}", "baseline": f"path:{baseline}"},
            "judges": settings.evaluate.judges[:1],
        }
    )
    return settings.model_copy(update={"evaluate": section})


def match(
    settings: Settings, workspace: Workspace, challenger: Path, baseline: Path, output: Path
) -> None:
    """Compare two models on the held-out prompts; `output` appears whole or not at all."""
    settings = match_settings(settings, challenger, baseline)
    judged = compare(settings, workspace, TorchEngine(settings.engine))
    with staged_directory(output) as directory:
        written = Workspace(directory)
        written.comparisons.parent.mkdir(parents=True)
        comparison_tables(judged).to_parquet(written.comparisons, index=False)
        write_summary(written.metrics("evaluate"), judged_summary(judged))


def main(arguments: list[str]) -> int:
    """Run a match in the current directory; gives the exit code."""

    def run() -> None:
        if len(arguments) != 3:
            raise RlhfError("usage: python -m rlhf.evaluation.match CHALLENGER BASELINE OUTPUT")
        workspace = Workspace(Path())
        challenger, baseline, output = map(Path, arguments)
        match(load_settings(workspace.params), workspace, challenger, baseline, output)

    return run_as_command(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
