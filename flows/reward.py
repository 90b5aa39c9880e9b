"""The reward flow: train the reward model on preference pairs."""

from flows.stage import main, run_stage, stage_flow


@stage_flow
def reward() -> None:
    """Write and register `models/reward`; the registry's `current` is the last one made."""
    run_stage("reward")


if __name__ == "__main__":
    main(reward)
