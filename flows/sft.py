"""The sft flow: fine-tune the base model on dialogues."""

from flows.stage import main, run_stage, stage_flow


@stage_flow
def sft() -> None:
    """Write and register `models/sft`; the registry's `current` is the last one made."""
    run_stage("sft")


if __name__ == "__main__":
    main(sft)
