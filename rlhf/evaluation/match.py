"""`python -m rlhf.evaluation.match CHALLENGER BASELINE OUTPUT` compares two model directories.

On the workspace's held-out prompts and by its first judge. OUTPUT is laid out as a workspace and
gets what `evaluate` writes: the comparisons and their figures. Nothing else changes.
"""

import sys
from pathlib import Path

from rlhf.common.command import run_as_command
from rlhf.common.errors import RlhfError
from rlhf.common.files import staged_directory
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.evaluate import compare, write_figures
from rlhf.evaluation.tax import NO_TAX
from rlhf.settings import Settings, load_settings
from rlhf.workspace import Workspace


def match_settings(settings: Settings, challenger: Path, baseline: Path) -> Settings:
    """The settings with one comparison, of two directories, by the headline judge."""
    # model_copy validates nothing; what is put in here is valid
    section = settings.evaluate.model_copy(
        update={
            "comparisons": (("challenger", "baseline"),),
            "opponents": {
                "challenger": _path_address(challenger),
                "baseline": _path_address(baseline),
            },
            "judges": settings.evaluate.judges[:1],
        }
    )
    return settings.model_copy(update={"evaluate": section})


def _path_address(directory: Path) -> str:
    # in an address $ begins a variable of the environment
    return "path:" + str(directory).replace("$", "$$")


def run_match(
    settings: Settings, workspace: Workspace, challenger: Path, baseline: Path, output: Path
) -> None:
    """Compare two models on the held-out prompts; `output` appears whole or not at all."""
    settings = match_settings(settings, challenger, baseline)
    judged = compare(settings, workspace, TorchEngine(settings.engine))
    with staged_directory(output) as directory:
        written = Workspace(directory)
        written.comparisons.parent.mkdir(parents=True)
        judged.table().to_parquet(written.comparisons, index=False)
        timings = {"generation_tokens_per_second": judged.tokens_per_second}
        write_figures(written, judged.summary(), NO_TAX, timings)


def main(arguments: list[str]) -> int:
    """Run a match in the current directory; gives the exit code."""

    def run() -> None:
        # tasks/matches.py calls it, nobody by hand
        if len(arguments) != 3:
            raise RlhfError("usage: python -m rlhf.evaluation.match CHALLENGER BASELINE OUTPUT")
        workspace = Workspace(Path())
        challenger, baseline, output = map(Path, arguments)
        run_match(load_settings(workspace.params), workspace, challenger, baseline, output)

    return run_as_command(run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
