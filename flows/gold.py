"""The gold flow: train a second reward model, on pairs that the first never saw. It only judges."""

from flows.stage import main, stage_flow
from tasks.steps import record, recorded, register, run_worker


@stage_flow
def gold() -> None:
    """Write and register `models/gold`; the registry's `current` is the last one made."""
    with recorded("gold") as run:
        run_worker(run)
        record(run)
        register(run, "gold", alias="current")


if __name__ == "__main__":
    main(gold)
