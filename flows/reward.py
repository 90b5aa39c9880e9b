"""The reward flow: train the reward model on preference pairs."""

from flows.stage import main, stage_flow
from tasks.steps import record, recorded, register, run_worker


@stage_flow
def reward() -> None:
    """Write and register `models/reward`."""
    with recorded("reward") as run:
        run_worker(run)
        record(run)
        register(run, "reward")


if __name__ == "__main__":
    main(reward)
