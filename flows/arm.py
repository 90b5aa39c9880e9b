"""The arm flow: `python -m flows.arm NAME` trains the policies of one arm of a study, a seed each. DVC calls it."""

import sys

from flows.stage import main, stage_flow
from tasks.steps import recorded, run_worker
from tasks.study import record_arm, stage_of


@stage_flow
def arm(name: str) -> None:
    """Write `runs/<name>.json`: curves, looks and summary of every seed."""
    with recorded(stage_of(name)) as run:
        run_worker(run, "rlhf.studies.run", name)
        record_arm(run, name)


if __name__ == "__main__":
    main(arm, sys.argv[1])
