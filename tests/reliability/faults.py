"""Faults that a test of its own plants: what is planted, where, and which tests hold what follows to the right result."""

from dataclasses import dataclass

_STAGES = "tests/rlhf/training"
_FLOWS = "tests/flows"
_TASKS = "tests/tasks"


@dataclass(frozen=True)
class Fault:
    """result: what the tests demand."""

    fault: str
    where: str
    result: str
    tests: tuple[str, ...]


EQUAL = "the numbers of an undisturbed run"
REFUSED = "refused by name, nothing half-written"

FAULTS = (
    Fault("kill -9 behind a step", "sft, reward, dpo, process, ppo", EQUAL,
          (f"{_STAGES}/test_resuming.py",)),
    Fault("a flipped bit, a truncated or lost file", "resume checkpoint", "the one before is resumed from",
          ("tests/rlhf/engine/test_checkpoints.py",)),
    Fault("a flipped bit", "sft's checkpoint", EQUAL,
          (f"{_STAGES}/test_resuming.py::test_a_damaged_checkpoint_costs_time_and_moves_no_number",)),
    Fault("disk full, a file that cannot grow", "models, logs", REFUSED,
          (f"{_STAGES}/test_faults.py::test_a_full_disk_ends_the_run_with_the_name_of_what_could_not_be_written",
           f"{_STAGES}/test_faults.py::test_a_file_that_cannot_grow_ends_the_run_with_its_name")),
    Fault("NaN in weights, overflow in a step", "sft, reward, ppo", REFUSED,
          (f"{_STAGES}/test_faults.py",)),
    Fault("a clock that jumps by days", "sft, ppo", EQUAL,
          (f"{_STAGES}/test_faults.py::test_a_clock_that_jumps_moves_no_number",)),
    Fault("Ctrl-C, SIGTERM, a killed worker, a killed dvc", "dvc repro", "told once, resumed later",
          (f"{_FLOWS}/test_interrupted_chain.py",)),
    Fault("MLflow goes away in mid-run", "a stage", "trains on; told when it is back",
          (f"{_FLOWS}/test_lost_tracking.py", f"{_TASKS}/test_missed.py")),
    Fault("Prefect goes away, or is of another version", "flows", "one line",
          (f"{_TASKS}/test_another_server.py", f"{_TASKS}/test_server.py")),
    Fault("two runs at once", "one workspace", "the second waits",
          (f"{_TASKS}/test_repro.py",)),
    Fault("a torn lock, a lock of the dead", "DVC", "put aside, told",
          (f"{_TASKS}/test_dvc_locks.py",)),
    Fault("a killed study", "python -m flows.study", EQUAL,
          (f"{_FLOWS}/test_killed_study.py",)),
    Fault("dead runs that Prefect shows as alive", "Prefect", "ended, nobody else's",
          (f"{_FLOWS}/test_dead_runs.py",)),
)  # fmt: skip
