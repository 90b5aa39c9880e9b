"""The ppo flow: train the policy against the reward model."""

from flows.stage import main, stage_flow
from tasks.steps import record, recorded, register, run_worker


@stage_flow
def ppo() -> None:
    """Write and register `models/policy`; `evaluate` makes its version the registry's `challenger`."""
    with recorded("ppo") as run:
        run_worker(run)
        record(run, "metrics/ppo_samples.jsonl")
        register(run, "policy")


if __name__ == "__main__":
    main(ppo)
