"""The sft flow: fine-tune the base model on dialogues."""

from flows.stage import main, stage_flow
from tasks.steps import record, recorded, register, run_worker


@stage_flow
def sft() -> None:
    """Write and register `models/sft`; the registry's `current` is the last one made."""
    with recorded("sft") as run:
        run_worker(run)
        record(run)
        register(run, "sft", alias="current")


if __name__ == "__main__":
    main(sft)
