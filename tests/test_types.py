import subprocess
import sys

from tests.source_tree import ROOT


def test_types_hold() -> None:
    """mypy, strict on `rlhf/`: here rather than before the tests, since a first run takes a minute of one core."""
    command = [sys.executable, "-m", "mypy", "rlhf", "tasks", "flows"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
