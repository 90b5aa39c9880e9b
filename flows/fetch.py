"""The fetch flow: bring the base model and the raw data, pinned by hash.

The only stage that touches a network.
"""

from flows.stage import main, run_stage, stage_flow


@stage_flow
def fetch() -> None:
    """Write `models/base` and `data/raw`."""
    run_stage("fetch")


if __name__ == "__main__":
    main(fetch)
