"""The README's pictures: `python -m tests.pictures [WORKSPACE]` writes .github/img anew.

flow.svg is drawn from the table of stages. With a finished workspace its report, and MLflow's and
Prefect's pages as `python -m flows.ui` shows them there, are photographed by Chromium.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which

from playwright.sync_api import Page, sync_playwright

from rlhf.core.source import ROOT
from tests.flow_picture import flow_svg

IMAGES = ROOT / ".github/img"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SIZE = {"width": 1440, "height": 1080}
# until a page has asked for what it shows, and drawn it
SETTLED_MS = 6_000


def main() -> None:
    """Draw and photograph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workspace", nargs="?", type=Path, help="where `make repro` has ended")
    workspace = parser.parse_args().workspace
    IMAGES.mkdir(parents=True, exist_ok=True)
    (IMAGES / "flow.svg").write_text(flow_svg(), encoding="utf-8")
    if workspace is not None:
        photograph(workspace.resolve())


def photograph(workspace: Path) -> None:
    """The three pages of a workspace."""
    browser_path = next((found for name in CHROMIUM if (found := which(name))), None)
    if browser_path is None:
        sys.exit(f"none of {', '.join(CHROMIUM)} is on the path")
    with interfaces(workspace) as (prefect, mlflow), sync_playwright() as play:
        browser = play.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        take(page, "report", (workspace / "reports/index.html").as_uri())
        take(page, "mlflow", f"{mlflow}/#/experiments/1/runs?compareRunsMode=CHART")
        take(page, "prefect", f"{prefect}/runs")


def take(page: Page, name: str, address: str) -> None:
    """One picture of what a window shows."""
    page.goto(address)
    page.wait_for_timeout(SETTLED_MS)
    page.screenshot(path=IMAGES / f"{name}.png")
    print(IMAGES / f"{name}.png")


@contextmanager
def interfaces(workspace: Path) -> Iterator[tuple[str, str]]:
    """The addresses of Prefect's and MLflow's pages while the block runs."""
    command = [sys.executable, "-m", "flows.ui"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, cwd=workspace, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield _address(process, "Prefect"), _address(process, "MLflow")
        finally:
            process.send_signal(signal.SIGINT)


def _address(process: subprocess.Popen[str], name: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.match(rf"{name}\s+(http\S+)", line):
            return found[1]
    sys.exit(f"python -m flows.ui ended before it named {name}'s address")


if __name__ == "__main__":
    main()
