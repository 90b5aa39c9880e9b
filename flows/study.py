"""The study flow: `python -m flows.study fig7` runs the arms of a figure of the paper and holds its findings to them.

Arms and seeds that are done are not run again, and a study that was killed goes on: DVC keeps its
stages in `studies/<preset>/`, the policies keep their checkpoints. `all` stands for every figure of
the paper; what goes beyond it, such as `neighbours`, is run by its own name.
"""

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.arguments import add_settings
from flows.parameters import FigureName, PresetName, Seeds
from flows.stage import exit_code, prefect_server
from rlhf.common.errors import RlhfError
from rlhf.common.yaml import read_yaml
from rlhf.settings import preset_text
from rlhf.settings.edit import edited
from rlhf.studies.arms import ARMS
from rlhf.studies.figures import GROUPS, PAPER_FIGURES, STUDIES, preset_of
from tasks.environment import STUDIES_FOLDER
from tasks.execution import current_execution, named_execution
from tasks.repro import repro
from tasks.study import arm_stage, lay_out

_EPILOG = """figures of the paper (all) and their arms:
{paper}

beyond the paper, not in all:
{beyond}

what rates and strengths of the neighbours were chosen from (search):
{searches}

With new seeds, the requested arms rerun. With changed settings (--set), every arm on the page reruns, and old
results are replaced. A claim whose two sides have no seed in common is left out."""


# -- the flow -------------------------------------------------------------------------------------


@flow(name="study", persist_result=False)
def study(
    figures: list[FigureName],
    preset: PresetName | None = None,
    seeds: Seeds = 3,
    overrides: dict[str, Any] | None = None,
    first_seed: int = 1,
) -> None:
    """Bring the arms of figures of the paper up to date, and the page of findings with them.

    Args:
        figures: names of figures: fig4 fig6 fig7 fig8 fig9 fig12 fig14 fig15 fig16 fig17 fig18 fig19;
            or neighbours apa rto dpo xpo aihf etpo process; or search-ppo-max, search-apa, ...
        preset: the settings that all arms start from; without one, those that the figures are meant for
        seeds: how many runs of the policy each arm gets
        overrides: settings to change for all arms, by dotted key: {"ppo.iterations": 200}
        first_seed: the first of those runs' seeds; the others follow it
    """
    with named_execution(f"study-{flow_run.id}"):
        chosen = preset or preset_of(figures)
        run_study(figures, chosen, range(first_seed, first_seed + seeds), overrides or {})


@task(task_run_name="dvc repro of the study", cache_policy=NO_CACHE)
def run_study(
    figures: list[str], preset: str, seeds: Sequence[int], overrides: dict[str, Any]
) -> None:
    """Lay out the study's workspace, once no other study works in it, and let DVC run what is stale."""
    logger = get_run_logger()
    # refused before anything is written
    text = settings_text(preset, overrides)
    directory = Path() / STUDIES_FOLDER / preset
    # an earlier study may still be running here: its plans must not change under it
    prepare = partial(lay_out_figures, Path(), preset, text, figures, seeds)
    repro(directory, [], {}, logger.info, prepare=prepare)
    logger.info("the findings: %s", directory / "reports" / "index.html")


# -- what is laid out -----------------------------------------------------------------------------


def lay_out_figures(
    root: Path, preset: str, settings: str, requested: Sequence[str], seeds: Sequence[int]
) -> Path:
    """Write the study's workspace.

    It has the requested figures with these seeds, and figures of earlier studies as they are. Searches
    have many arms, which are not run again unless they are asked for.
    """
    directory = root / STUDIES_FOLDER / preset
    figures = [
        name
        for name, figure in STUDIES.items()
        if name in requested
        or (name not in GROUPS["search"] and is_finished(directory, figure.arms))
    ]
    arms = {arm: ARMS[arm] for figure in figures for arm in STUDIES[figure].arms}
    # an arm of both gets the new seeds
    requested_arms = {arm for figure in requested for arm in STUDIES[figure].arms}
    finished = arms.keys() - requested_arms
    return lay_out(root, preset, settings, arms, seeds, figures, finished=finished)


def settings_text(preset: str, overrides: dict[str, Any]) -> str:
    """Give the settings that all arms start from; raises SettingsError where they are refused."""
    text = preset_text(preset)
    return edited(text, overrides, f"preset {preset}") if overrides else text


def is_finished(directory: Path, arms: Sequence[str]) -> bool:
    """Whether an earlier study ran these arms, which then stay on its page.

    Whether they are stale is for DVC to see. It takes an arm out of its lock file before it runs it
    again.
    """
    lock = directory / "dvc.lock"
    stages = read_yaml(lock)["stages"] if lock.is_file() else {}
    return all(arm_stage(arm) in stages for arm in arms)


# -- the command line -----------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and run the flow."""
    options = _parser().parse_args(arguments)
    overrides = dict(options.set)
    with exit_code():
        if options.seeds < 1:
            raise RlhfError(f"--seeds {options.seeds}: a study needs at least one")
        # refused before a server is started
        figures = named_figures(options.figures)
        preset = options.preset or preset_of(figures)
        settings_text(preset, overrides)
    with exit_code(), prefect_server(Path(), current_execution()):
        study(figures, preset, options.seeds, overrides, options.first_seed)


def named_figures(names: Sequence[str]) -> list[str]:
    """Give each figure once; `all` stands for those of the paper, `search` for all searches."""
    # in the order in which they were named
    figures: list[str] = []
    for name in names:
        figures += GROUPS.get(name, (name,))
    return list(dict.fromkeys(figures))


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    beyond = [name for name in STUDIES if name not in (*PAPER_FIGURES, *GROUPS["search"])]
    parser = argparse.ArgumentParser(
        prog="python -m flows.study",
        description=__doc__.split("\n")[0],
        epilog=_EPILOG.format(
            paper=_list_figures(PAPER_FIGURES),
            beyond=_list_figures(beyond),
            searches=_list_figures(GROUPS["search"]),
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "figures",
        nargs="+",
        choices=[*GROUPS, *STUDIES],
        metavar="FIGURE",
        help="listed below; or all (every figure of the paper), or search",
    )
    parser.add_argument(
        "--preset",
        help="settings that all arms start from (default: what the figures are meant for)",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="runs of the policy per arm (default: 3)"
    )
    parser.add_argument(
        "--first-seed",
        type=int,
        default=1,
        metavar="SEED",
        help="seed of the first of them (default: 1)",
    )
    example = "change a setting for all arms, for example --set ppo.iterations=200; may be repeated"
    add_settings(parser, example)
    return parser


def _list_figures(names: Sequence[str]) -> str:
    lines = []
    for name in names:
        figure = STUDIES[name]
        lines.append(f"  {name:6} {figure.title}: {', '.join(figure.arms)}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
