"""The servers of `.deploy/compose.yaml`; Docker itself is not run here."""

import re
import subprocess
from typing import Any

import pytest

from rlhf.common.yaml import read_yaml
from tests.source_tree import ROOT

COMPOSE = ROOT / ".deploy" / "compose.yaml"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return read_yaml(COMPOSE)


def test_its_versions_are_those_of_the_lock(compose: dict[str, Any]) -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = dict(line.split("==") for line in lines)
    services = compose["services"]
    prefect = services["prefect"]["build"]["dockerfile_inline"]
    assert f"FROM prefecthq/prefect:{pins['prefect']}-python3.11\n" in prefect
    assert f"SQLAlchemy=={pins['SQLAlchemy']}\n" in prefect
    assert services["prefect"]["image"].endswith(f":{pins['prefect']}")
    recipe = services["mlflow"]["build"]["dockerfile_inline"]
    assert f"FROM ghcr.io/mlflow/mlflow:v{pins['mlflow']}\n" in recipe
    assert services["mlflow"]["image"].endswith(f":{pins['mlflow']}")
    installed = re.findall(r'([\w-]+)(?:\[\w+\])?==([^\s"]+)', recipe)
    assert {name for name, _ in installed} == {"psycopg", "boto3", "Flask-WTF"}
    assert all(pins[name] == version for name, version in installed)
    # what `pip install rlhf[servers]` brings is what is in the image
    extra = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf'"{name}(\[\w+\])?=={version}"', extra) for name, version in installed)


def test_every_image_has_a_version(compose: dict[str, Any]) -> None:
    images = [service["image"] for service in compose["services"].values()]
    assert all(re.search(r":.*\d", image) and "latest" not in image for image in images)


def test_only_this_machine_is_answered(compose: dict[str, Any]) -> None:
    ports = [port for one in compose["services"].values() for port in one.get("ports", [])]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)


def test_passwords_are_asked_for_and_git_does_not_see_them(compose: dict[str, Any]) -> None:
    asked = set(re.findall(r"\$\{(\w+):\?\}", COMPOSE.read_text()))
    example = (ROOT / ".deploy" / ".env.example").read_text()
    listed = dict(line.split("=") for line in example.splitlines() if not line.startswith("#"))
    assert asked == listed.keys()
    assert not [name for name, value in listed.items() if value and re.search("PASS|SECRET", name)]
    ignored = ["git", "check-ignore", "--quiet", ".deploy/.env"]
    assert subprocess.run(ignored, cwd=ROOT, check=False).returncode == 0
