"""The reward flow: train the reward model on preference pairs."""

from flows.stage import main, stage_flow
from tasks.steps import record, recorded, register, run_worker


@stage_flow
def reward() -> None:
    """Write and register `models/reward`; the registry's `current` is the last one made."""
    with recorded("reward") as run:
        run_worker(run)
        record(run)
        register(run, "reward", alias="current")


if __name__ == "__main__":
    main(reward)
