"""Copies of the project, and small repositories, in which tests run `dvc` for real."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.commands.code_links import stage_folder
from rlhf.common.yaml import write_yaml
from rlhf.settings import preset_text
from tests.source_tree import ROOT

# a directory for PYTHONPATH, and the file beside the finished chain that gets what it noted
ONLY_LOOPBACK = ROOT / "tests" / "only_loopback"
LOOK_UPS = "look-ups.jsonl"
_RECORDS = ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_HOME", "RLHF_EXECUTION")
_AUTHOR = ("user.name=Test", "user.email=test@example.org", "commit.gpgsign=false")
# the first stage waits as long as there is a file `hold`
_SMALL_STAGES = {
    "one": {
        "cmd": "touch begun; while [ -e hold ]; do sleep 0.1; done; cat data/in > one.txt",
        "deps": ["data"],
        "params": ["seed"],
        "outs": ["one.txt"],
    },
    "two": {
        "cmd": "cat one.txt > two.txt",
        "deps": ["one.txt"],
        "params": ["report"],
        "outs": ["two.txt"],
    },
}


@dataclass(frozen=True)
class Project:
    """A workspace with git and DVC below `root`.

    prefect: the address of a server that its flows use, if not their own
    """

    root: Path
    prefect: str | None = None

    @staticmethod
    def small(root: Path) -> "Project":
        """`one` copies data/in to one.txt, `two` copies one.txt to two.txt."""
        root.mkdir(parents=True)
        (root / "data").mkdir()
        (root / "data" / "in").write_text("in\n")
        (root / ".dvc").mkdir()
        shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
        (root / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n")
        (root / "params.yaml").write_text(preset_text("tiny"))
        (root / "dvc.yaml").write_text(write_yaml({"stages": _SMALL_STAGES}))
        project = Project(root)
        project.commit()
        return project

    def hold(self) -> Path:
        """Make the first stage of a small project wait until the file that this gives is removed."""
        path = self.root / "hold"
        path.touch()
        return path

    def commit(self) -> None:
        """Make a git repository of all that is here and not ignored."""
        author = [word for setting in _AUTHOR for word in ("-c", setting)]
        if not (self.root / ".git").exists():
            self.run("git", "init", "--quiet", "--initial-branch=main")
        self.run("git", "add", "--all")
        self.run("git", *author, "commit", "--quiet", "--no-verify", "--message", "state")

    def environment(self, **extra: str) -> dict[str, str]:
        """What a user's shell would have with the virtual environment active."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if key not in _RECORDS and "PYTEST" not in key
        }
        environment |= {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}",
            "PYTHONPATH": str(self.root),
            "GIT_CEILING_DIRECTORIES": str(self.root.parent),
        }
        if self.prefect is not None:
            environment["PREFECT_API_URL"] = self.prefect
        return environment | extra

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
        words = " ".join(command)
        assert process.returncode == code, f"{words} ended with {process.returncode}:\n{output}"
        return output

    def repro(self, *arguments: str, code: int = 0, **extra: str) -> str:
        """Run `dvc repro`."""
        return self.run("dvc", "repro", *arguments, code=code, **extra)

    def ran(self, output: str) -> list[str]:
        """List the stages that a `dvc repro` ran, in order."""
        lines = [line for line in output.splitlines() if line.startswith("Running stage '")]
        return [line.split("'")[1] for line in lines]


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
            # the links of rlhf/.code stay links
            shutil.copy(source, target, follow_symlinks=False)
    (root / "params.yaml").write_text(preset_text(preset), encoding="utf-8")
    project = Project(root)
    project.commit()
    return project


def link_clone(root: Path) -> Path:
    """Link what of a clone DVC needs to see, to look at what is written there; nothing is run."""
    for name in ("dvc.yaml", ".dvcignore", "requirements.lock", "rlhf", ".dvc/config"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).symlink_to(ROOT / name)
    return root


def forget_link(stages: dict[str, Any], stage: str, name: str, folder: Path) -> None:
    """Let a stage of dvc.yaml depend on a copy of its links, in a new `folder`, that lacks one of them."""
    links = stage_folder(stage)
    folder.mkdir(parents=True)
    for link in (ROOT / links).iterdir():
        if link.name != name:
            (folder / link.name).symlink_to(link.resolve())
    deps = stages[stage]["deps"]
    deps[deps.index(links.as_posix())] = str(folder)
