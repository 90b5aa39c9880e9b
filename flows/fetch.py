"""The fetch flow: bring the base model and the raw data, pinned by hash. The only stage that touches a network."""

from flows.stage import main, stage_flow
from tasks.steps import record, recorded, run_worker


@stage_flow
def fetch() -> None:
    """Write `models/base` and `data/raw`."""
    with recorded("fetch") as run:
        run_worker(run)
        record(run)


if __name__ == "__main__":
    main(fetch)
