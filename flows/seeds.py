"""The flow of many seeds: `python -m flows.seeds laptop --seeds 5` runs a preset's whole chain for each.

One run tells little: data are split, models trained and answers drawn by its seed. What all came to is
`studies/<preset>-seeds.md`, a table, and `.svg`, a picture, of the runs that have the same settings but
for seed and precision; it names the others. Runs that are done are not run again.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.arguments import add_settings
from flows.parameters import FirstSeed, PresetName, Seeds
from flows.stage import exit_code, prefect_server
from rlhf.common.errors import RlhfError
from rlhf.settings import preset_names
from tasks.environment import STUDIES_FOLDER
from tasks.execution import current_execution, named_execution
from tasks.process import run_process
from tasks.repro import repro
from tasks.seeds import SeedRun, lay_out_seed

PRECISIONS = ("auto", "fp32", "bf16")


@flow(name="seeds", persist_result=False)
def seeds(
    preset: PresetName = "laptop",
    count: Seeds = 5,
    first_seed: FirstSeed = 1,
    precisions: Sequence[str] = ("auto",),
    overrides: dict[str, Any] | None = None,
) -> None:
    """Run the whole chain of a preset for several seeds, and tell what all of them came to.

    Args:
        preset: the settings of all runs
        count: how many seeds
        first_seed: the first of them; the others follow it
        precisions: number formats (auto, fp32, bf16); every seed runs in each
        overrides: settings to change in all runs, by dotted key
    """
    with named_execution(f"seeds-{flow_run.id}"):
        for precision, seed in product(precisions, range(first_seed, first_seed + count)):
            run = SeedRun(preset, precision, seed)
            with_name = run_chain.with_options(task_run_name=run.name)
            with_name(run, overrides or {})
            tell(run)


@task(cache_policy=NO_CACHE)
def run_chain(run: SeedRun, overrides: dict[str, Any]) -> None:
    """Lay out the workspace of a run and let DVC run what is stale."""
    directory = Path() / STUDIES_FOLDER / run.name
    # refused before anything is written
    run.settings(overrides)
    prepare = partial(lay_out_seed, Path(), run, overrides)
    repro(directory, [], {}, get_run_logger().info, prepare=prepare)


@task(task_run_name="table", cache_policy=NO_CACHE)
def tell(run: SeedRun) -> None:
    """Write the table and the picture of all runs of the preset so far that have the settings of this one."""
    code, lines = run_process(
        [sys.executable, "-m", "rlhf.report.seeds", STUDIES_FOLDER, run.preset, run.name],
        log_file=Path("logs") / "seeds.log",
        on_line=get_run_logger().info,
    )
    if code:
        raise RlhfError("\n".join(lines))


# -- the command line ------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run the flow."""
    options = _parser().parse_args(arguments)
    overrides = dict(options.set)
    with exit_code():
        if options.seeds < 1:
            raise RlhfError(f"--seeds {options.seeds}: at least one")
        if options.first_seed < 0:
            raise RlhfError(f"--first-seed {options.first_seed}: not below 0")
        # refused before a server is started
        SeedRun(options.preset, options.precision[0], options.first_seed).settings(overrides)
    with exit_code(), prefect_server(Path(), current_execution()):
        seeds(options.preset, options.seeds, options.first_seed, options.precision, overrides)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m flows.seeds", description=__doc__.split("\n")[0]
    )
    parser.add_argument("preset", nargs="?", default="laptop", choices=preset_names())
    parser.add_argument("--seeds", type=int, default=5, help="how many (default: 5)")
    parser.add_argument(
        "--first-seed", type=int, default=1, metavar="SEED", help="the first one (default: 1)"
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=PRECISIONS,
        default=["auto"],
        help="number formats; every seed runs in each (default: auto, the faster one)",
    )
    add_settings(parser, "change a setting in all runs; may be repeated")
    return parser


if __name__ == "__main__":
    main()
