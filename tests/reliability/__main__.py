"""Does anything get lost? `python -m tests.reliability` plants faults and prints a table: fault, where, result.

First what tests of their own plant (`faults.py`), then `kill -9` at random moments of every stage
(`kills.py`). It ends with 1 where a number or a message is not as it must be.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.reliability.faults import FAULTS, Fault
from tests.reliability.kills import Kill, random_kills
from tests.source_tree import ROOT


def main() -> int:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=main.__doc__)
    parser.add_argument(
        "--kills", type=int, default=20, help="how many at random moments (20: each stage twice)"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the moments")
    parser.add_argument(
        "--kills-only", action="store_true", help="leave out the faults that tests plant"
    )
    asked = parser.parse_args()

    print("| fault | where | result |\n|---|---|---|", flush=True)
    bad = 0
    for fault in () if asked.kills_only else FAULTS:
        passed = _passes(fault)
        bad += not passed
        _row(fault.fault, fault.where, fault.result if passed else "FAILED")

    with tempfile.TemporaryDirectory() as folder:
        for kill in random_kills(Path(folder), asked.kills, asked.seed):
            bad += bool(kill.differs)
            _row(_moment(kill), kill.stage, _result(kill))
    print(f"\n{bad} not as it must be" if bad else "\nall as it must be")
    return int(bad > 0)


def _passes(fault: Fault) -> bool:
    # the long ones too
    command = (sys.executable, "-m", "pytest", "-q", "-m", "long or not long", *fault.tests)
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(done.stdout[-3000:], file=sys.stderr)
    return done.returncode == 0


def _moment(kill: Kill) -> str:
    if kill.moment is None:
        return f"kill -9 came too late ({kill.seconds:.0f} s)"
    return f"kill -9 after {kill.moment:.1f} of {kill.seconds:.1f} s"


def _result(kill: Kill) -> str:
    return f"differs: {', '.join(kill.differs)}" if kill.differs else "equal"


def _row(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
