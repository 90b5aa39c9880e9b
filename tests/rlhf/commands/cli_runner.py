"""The command line in this process."""

from pathlib import Path

from typer.testing import CliRunner

from rlhf.commands.cli import app


def run(*arguments: str, root: Path) -> tuple[int, str]:
    """Run a command; a fault comes back as the message that `main` prints."""
    result = CliRunner().invoke(app, ["--workspace", str(root), *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return 1, f"{type(result.exception).__name__}: {result.exception}"
    return result.exit_code, result.output
