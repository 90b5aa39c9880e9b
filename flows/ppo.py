"""The ppo flow: train the policy against the reward model."""

from flows.stage import main, run_stage, stage_flow


@stage_flow
def ppo() -> None:
    """Write and register `models/policy`; `evaluate` makes its version the registry's `challenger`."""
    run_stage("ppo")


if __name__ == "__main__":
    main(ppo)
