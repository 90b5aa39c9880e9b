"""The gold flow: train a second reward model, on pairs that the first never saw. It only judges."""

from flows.stage import main, run_stage, stage_flow


@stage_flow
def gold() -> None:
    """Write and register `models/gold`; the registry's `current` is the last one made."""
    run_stage("gold")


if __name__ == "__main__":
    main(gold)
