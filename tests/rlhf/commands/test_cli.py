import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from rlhf.commands.cli import app

RUN = [sys.executable, "-c", "from rlhf.commands.cli import main; main()"]


def test_faults_and_the_version_from_a_real_process(tmp_path: Path) -> None:
    command = [*RUN, "-C", str(tmp_path), "preset", "huge"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: no preset 'huge'") and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").mkdir()
    command = [*RUN, "-C", str(tmp_path), "preset", "tiny", "--force"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and "params.yaml" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_version() -> None:
    result = CliRunner().invoke(app, ["--help"])
    assert result.exit_code == 0
    assert all(word in result.output for word in ("preset", "chat", "doctor", "show", "dvc repro"))
    assert CliRunner().invoke(app, ["--version"]).output.startswith("rlhf ")
