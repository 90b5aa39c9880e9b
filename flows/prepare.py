"""The prepare flow: clean, split and tokenise the raw data."""

from flows.stage import main, stage_flow
from tasks.steps import record, recorded, run_worker


@stage_flow
def prepare() -> None:
    """Write the four tables of `data/prepared`."""
    with recorded("prepare") as run:
        run_worker(run)
        record(run)


if __name__ == "__main__":
    main(prepare)
