"""The process flow: train the process reward model on answers in steps. Off where `process` is null."""

from flows.stage import main, run_stage, stage_flow


@stage_flow
def process() -> None:
    """Write and register `models/process`; the registry's `current` is the last one made."""
    run_stage("process")


if __name__ == "__main__":
    main(process)
