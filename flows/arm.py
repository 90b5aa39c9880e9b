"""The arm flow: `python -m flows.arm NAME` trains the policies of one arm of a study, a seed each.

DVC calls it.
"""

import sys

from flows.stage import main, stage_flow
from tasks.steps import run_worker, tracked_stage
from tasks.study import arm_stage, record_arm


@stage_flow
def arm(name: str) -> None:
    """Write `runs/<name>.json`: curves, looks and summary of every seed."""
    with tracked_stage(arm_stage(name)) as run:
        run_worker(run, "rlhf.studies.run", name)
        record_arm(run, name)


if __name__ == "__main__":
    main(arm, sys.argv[1])
