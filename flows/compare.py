"""Compare any two models of the registry: `python -m flows.compare CHALLENGER BASELINE [--promote]`.

The workspace's held-out prompts are answered by both and judged by the first of `evaluate.judges`. `rlhf compare` calls it.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from flows.stage import exit_code, main, stage_flow
from rlhf.settings import load_settings
from rlhf.workspace import Workspace
from tasks.matches import SHARES, ComparisonResult, decide, play, refuse_promotion_over, settle
from tasks.steps import check_inputs, kept_open, open_run
from tasks.versions import find_version

_PLAYERS = (
    "models/base",
    "models/sft",
    "models/policy",
)  # what evaluate reads and a match does not

_KINDS = ("helpful", "harmless", "other")


@stage_flow
def compare(challenger: str, baseline: str, promote: bool = False) -> None:
    """Print and record how `challenger` does against `baseline`; with `promote` it becomes champion if it is better."""
    root = Path()
    experiment = load_settings(Workspace(root).params).experiment
    first, second = (
        find_version(root, experiment, reference) for reference in (challenger, baseline)
    )
    champion = refuse_promotion_over(root, experiment, first, second) if promote else None
    settings, lineage = check_inputs("evaluate", root)
    read = {path: value for path, value in lineage.dependencies.items() if path not in _PLAYERS}
    read |= {"challenger": first.dvc_hash, "baseline": second.dvc_hash}
    with kept_open(open_run("compare", root, settings, replace(lineage, dependencies=read))) as run:
        result = play(run, first, second)
        decision = decide(result, str(second), settings.evaluate.promotion)
        if promote:
            settle(run, first, champion, decision)
    for line in told(result):
        print(line)
    print(f"{first}: {decision.reason}")


def told(result: ComparisonResult) -> list[str]:
    """A line for all prompts and one for each kind that there is."""
    by_kind = {"all": result.figures} | {kind: result.kinds.get(kind, {}) for kind in _KINDS}
    lines = []
    for name, shares in by_kind.items():
        win, tie, lose, rate, low, high = (shares.get(key) for key in SHARES)
        if rate is not None:
            parts = f"win {win:.1%}, tie {tie:.1%}, lose {lose:.1%}"
            lines.append(f"{name:9} {parts}; win rate {rate:.3f} [{low:.3f}, {high:.3f}]")
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m flows.compare", description=__doc__.split("\n")[0]
    )
    parser.add_argument(
        "challenger",
        help="champion, challenger, NAME@ALIAS, NAME/VERSION or NAME: sft, policy/2, other-policy",
    )
    parser.add_argument("baseline", help="the same")
    parser.add_argument(
        "--promote", action="store_true", help="make it champion if evaluate.promotion allows"
    )
    return parser


if __name__ == "__main__":
    options = _parser().parse_args()
    with exit_code():  # a name that nobody has is told before a flow begins
        for reference in (options.challenger, options.baseline):
            find_version(Path(), load_settings(Workspace().params).experiment, reference)
    main(compare, options.challenger, options.baseline, options.promote)
