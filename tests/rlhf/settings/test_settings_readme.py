"""The README of the settings: its example runs, and its tables are complete."""

import pytest

from rlhf import registry
from rlhf.settings import preset_names
from rlhf.settings.variants import VARIANTS
from tests.readme_examples import python_blocks
from tests.source_tree import ROOT

README = "rlhf/settings/README.md"
TEXT = (ROOT / README).read_text(encoding="utf-8")


def test_the_example_runs() -> None:
    (block,) = python_blocks(README)
    exec(block, {})


@pytest.mark.parametrize("name", [*preset_names(), *VARIANTS])
def test_every_preset_and_variant_is_named(name: str) -> None:
    assert f"`{name}`" in TEXT


@pytest.mark.parametrize(
    "kind", [*registry.SOURCES, *registry.JUDGES, *registry.REWARDS, "path", "file"]
)
def test_every_kind_of_address_is_named(kind: str) -> None:
    assert f"`{kind}:" in TEXT or f"`{kind}`" in TEXT
