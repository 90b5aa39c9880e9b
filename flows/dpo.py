"""The dpo flow: train the SFT model on preference pairs directly. Off where `dpo` is null."""

from flows.stage import main, run_stage, stage_flow


@stage_flow
def dpo() -> None:
    """Write and register `models/dpo`; the registry's `current` is the last one made."""
    run_stage("dpo")


if __name__ == "__main__":
    main(dpo)
