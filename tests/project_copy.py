"""Copies of the project, and small repositories, in which tests run `dvc` for real."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.source_tree import ROOT

_RECORDS = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "RLHF_EXECUTION")


@dataclass(frozen=True)
class Project:
    """A workspace with git and DVC below `root`; `prefect` is the address of a server that its flows use, if not their own."""

    root: Path
    prefect: str | None = None

    @staticmethod
    def small(root: Path) -> "Project":
        """`one` copies data/in to one.txt after `seconds`, `two` copies one.txt to two.txt."""
        root.mkdir(parents=True)
        (root / "data").mkdir()
        (root / "data" / "in").write_text("in\n")
        (root / ".dvc").mkdir()
        shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
        (root / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n")
        (root / "params.yaml").write_text("# the pause\nseconds: 0\nsection: {key: 1}\n")
        (root / "dvc.yaml").write_text(
            "stages:\n"
            "  one: {cmd: 'sleep ${seconds} && cat data/in > one.txt', deps: [data], params: [seconds], outs: [one.txt]}\n"
            "  two: {cmd: 'cat one.txt > two.txt', deps: [one.txt], params: [section], outs: [two.txt]}\n"
        )
        project = Project(root)
        project.commit()
        return project

    def commit(self) -> None:
        """Make a git repository of all that is here and not ignored."""
        author = [
            "-c",
            "user.name=Test",
            "-c",
            "user.email=test@example.org",
            "-c",
            "commit.gpgsign=false",
        ]
        if not (self.root / ".git").exists():
            self.run("git", "init", "--quiet", "--initial-branch=main")
        self.run("git", "add", "--all")
        self.run("git", *author, "commit", "--quiet", "--no-verify", "--message", "state")

    def environment(self, **extra: str) -> dict[str, str]:
        """What a user's shell would have with the virtual environment active."""
        kept = {
            key: value
            for key, value in os.environ.items()
            if key not in _RECORDS and "PYTEST" not in key
        }
        path = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
        if self.prefect is not None:
            kept["PREFECT_API_URL"] = self.prefect
        return (
            kept
            | {
                "PATH": path,
                "PYTHONPATH": str(self.root),
                "GIT_CEILING_DIRECTORIES": str(self.root.parent),
            }
            | extra
        )

    def start(self, *command: str, **extra: str) -> subprocess.Popen[str]:
        """Start a command in a group of its own, as a terminal does."""
        return subprocess.Popen(
            command,
            cwd=self.root,
            env=self.environment(**extra),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *command: str, code: int = 0, **extra: str) -> str:
        """Run a command to its end, give its output, and hold it to an exit code."""
        process = self.start(*command, **extra)
        output, _ = process.communicate()
        assert process.returncode == code, (
            f"{' '.join(command)} ended with {process.returncode}:\n{output}"
        )
        return output

    def repro(self, *arguments: str, code: int = 0, **extra: str) -> str:
        """Run `dvc repro`."""
        return self.run("dvc", "repro", *arguments, code=code, **extra)

    def ran(self, output: str) -> list[str]:
        """List the stages that a `dvc repro` ran, in order."""
        return [
            line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")
        ]


def copy_project(root: Path, preset: str) -> Project:
    """Copy the sources, tracked by git or not yet, as a clone would have them, with a preset as its settings."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        source, target = ROOT / name, root / name
        if source.is_file() and name not in ("params.yaml", "dvc.lock"):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    shutil.copy(ROOT / "rlhf" / "presets" / f"{preset}.yaml", root / "params.yaml")
    project = Project(root)
    project.commit()
    return project
