"""`rlhf compare` leaves Ctrl-C to the flow that it runs, which has records to close; a stand-in takes the flow's place."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.waiting import SECONDS

FLOW = """
import sys, time
try:
    print("begun", *sys.argv[1:], flush=True)
    time.sleep(3600)
except KeyboardInterrupt:
    time.sleep(1.5)
    print("closed", flush=True)
    sys.exit(130)
"""
COMPARE = (
    sys.executable,
    "-c",
    "from rlhf.commands.cli import main; main()",
    "compare",
    "policy/2",
    "sft",
)


def test_ctrl_c_is_for_the_flow_to_obey_in_its_own_time(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "flows" / "__init__.py").touch()
    (tmp_path / "flows" / "compare.py").write_text(FLOW)
    run = subprocess.Popen(
        COMPARE,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert run.stdout is not None
    assert run.stdout.readline() == "begun policy/2 sft\n"
    # what a terminal does
    os.killpg(run.pid, signal.SIGINT)
    output, _ = run.communicate(timeout=SECONDS)
    assert (output, run.returncode) == ("closed\n", 130)
