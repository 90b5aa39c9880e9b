"""The prepare flow: clean, split and tokenise the raw data."""

from flows.stage import main, run_stage, stage_flow


@stage_flow
def prepare() -> None:
    """Write the four tables of `data/prepared`."""
    run_stage("prepare")


if __name__ == "__main__":
    main(prepare)
