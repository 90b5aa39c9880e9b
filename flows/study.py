"""The study flow: `python -m flows.study fig7` runs the arms of a figure of the paper and holds its findings to them.

Arms and seeds that are done are not run again, and a study that was killed goes on: DVC keeps its stages in
`studies/<preset>/`, the policies keep their checkpoints. `all` stands for every figure.
"""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.arguments import assignment
from flows.stage import exit_code, prefect_server
from rlhf.common.errors import RlhfError
from rlhf.common.yaml import read_yaml
from rlhf.settings import preset_text
from rlhf.settings.edit import edited
from rlhf.studies.arms import ARMS
from rlhf.studies.figures import STUDIES
from tasks.environment import STUDIES as FOLDER
from tasks.execution import VARIABLE, current_execution
from tasks.repro import repro
from tasks.study import lay_out, stage_of

_AGAIN = """New seeds run the arms of the figures asked for again, new settings (--set) those of all that the page shows, in
place of the old. A claim whose two sides have no seed in common is left out."""


@flow(name="study", persist_result=False)
def study(
    figures: list[str],
    preset: str = "study",
    seeds: int = 3,
    overrides: dict[str, Any] | None = None,
    first_seed: int = 1,
) -> None:
    """Bring the arms of figures of the paper up to date, and the page of findings with them.

    Args:
        figures: names of figures: fig4 fig6 fig7 fig8 fig9 fig12 fig14 fig15 fig16 fig17 fig18 fig19
        preset: the settings that all arms start from
        seeds: how many runs of the policy each arm gets
        overrides: settings to change for all arms, by dotted key: {"ppo.iterations": 200}
        first_seed: the first of those runs' seeds; the others follow it
    """
    os.environ[VARIABLE] = f"study-{flow_run.id}"
    try:
        run_study(figures, preset, range(first_seed, first_seed + seeds), overrides or {})
    finally:
        del os.environ[VARIABLE]


@task(task_run_name="dvc repro of the study", cache_policy=NO_CACHE)
def run_study(
    figures: list[str], preset: str, seeds: Sequence[int], overrides: dict[str, Any]
) -> None:
    """Lay out the study's workspace, once no other study works in it, and let DVC run what is stale."""
    text = settings_text(preset, overrides)
    directory = Path() / FOLDER / preset
    plan = partial(lay_out_figures, Path(), preset, text, figures, seeds)
    repro(directory, [], {}, get_run_logger().info, prepare=plan)
    get_run_logger().info("the findings: %s", directory / "reports" / "index.html")


def lay_out_figures(
    root: Path, preset: str, settings: str, asked: Sequence[str], seeds: Sequence[int]
) -> Path:
    """Write the study's workspace: the figures asked for with these seeds, and those of earlier studies as they are."""
    directory = root / FOLDER / preset
    figures = [name for name in STUDIES if name in asked or finished(directory, STUDIES[name].arms)]
    names = dict.fromkeys(arm for figure in figures for arm in STUDIES[figure].arms)
    kept = names.keys() - {arm for figure in asked for arm in STUDIES[figure].arms}
    return lay_out(
        root, preset, settings, {arm: ARMS[arm] for arm in names}, seeds, figures, finished=kept
    )


def settings_text(preset: str, overrides: dict[str, Any]) -> str:
    """Give the settings that all arms start from; raises SettingsError where they are refused."""
    text = preset_text(preset)
    return edited(text, overrides, f"preset {preset}") if overrides else text


def finished(directory: Path, arms: Sequence[str]) -> bool:
    """Whether an earlier study ran these arms: they stay on its page, and DVC looks whether they are stale.

    Its lock file tells, for it removes what an arm wrote before it runs it again.
    """
    lock = directory / "dvc.lock"
    stages = read_yaml(lock)["stages"] if lock.is_file() else {}
    return all(stage_of(arm) in stages for arm in arms)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run the flow."""
    options = _parser().parse_args(arguments)
    figures = list(STUDIES) if "all" in options.figures else list(dict.fromkeys(options.figures))
    with exit_code():
        if options.seeds < 1:
            raise RlhfError(f"--seeds {options.seeds}: a study needs at least one")
        settings_text(options.preset, dict(options.set))  # refused before a server is started
    with exit_code(), prefect_server(Path(), current_execution()):
        study(figures, options.preset, options.seeds, dict(options.set), options.first_seed)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    figures = "\n".join(
        f"  {name:6} {each.title}: {', '.join(each.arms)}" for name, each in STUDIES.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m flows.study",
        description=__doc__.split("\n")[0],
        epilog=f"figures and their arms:\n{figures}\n\n{_AGAIN}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    choices = ["all", *STUDIES]
    parser.add_argument(
        "figures", nargs="+", choices=choices, metavar="FIGURE", help="listed below; or all"
    )
    parser.add_argument(
        "--preset", default="study", help="settings that all arms start from (default: study)"
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs of the policy per arm (default: 3)"
    )
    help_ = "seed of the first of them (default: 1)"
    parser.add_argument("--first-seed", type=int, default=1, metavar="SEED", help=help_)
    help_ = "change a setting for all arms, for example --set ppo.iterations=200; may be repeated"
    parser.add_argument(
        "--set", type=assignment, action="append", default=[], metavar="KEY=VALUE", help=help_
    )
    return parser


if __name__ == "__main__":
    main()
