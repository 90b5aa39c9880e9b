"""A stage whose code dvc.yaml does not list is refused before any work."""

from itertools import product
from pathlib import Path

import pytest

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml, read_yaml, write_yaml
from rlhf.settings import Settings, preset_names, preset_text, settings_from
from rlhf.settings.edit import changed
from rlhf.settings.variants import VARIANTS
from rlhf.watched import refuse_unwatched, refuse_unwatched_stages
from tests.project_copy import forget_link
from tests.source_tree import ROOT


def settings_of(preset: str, variant: str = "ppo-ptx") -> Settings:
    content = parse_yaml(preset_text(preset), preset)
    return settings_from(changed(content, VARIANTS[variant]), preset)


# the variants choose the algorithm, `verifiable` has other rewards too
@pytest.mark.parametrize(
    ("preset", "variant"),
    [*product(preset_names(), ["ppo-ptx"]), *product(["laptop", "verifiable"], VARIANTS)],
)
def test_dvc_yaml_lists_what_the_presets_run(preset: str, variant: str) -> None:
    refuse_unwatched_stages(ROOT, settings_of(preset, variant))


def test_a_file_that_is_not_linked_is_named(tmp_path: Path) -> None:
    content = read_yaml(ROOT / "dvc.yaml")
    forget_link(content["stages"], "gold", "engine.single", tmp_path / "links")
    (tmp_path / "dvc.yaml").write_text(write_yaml(content), encoding="utf-8")
    message = r"^dvc\.yaml: gold runs rlhf/engine/single\.py, .* `make dvc\.yaml` links it$"
    with pytest.raises(SettingsError, match=message):
        refuse_unwatched_stages(tmp_path, settings_of("tiny"))


def test_an_algorithm_without_its_links_is_refused() -> None:
    deps = read_yaml(ROOT / "dvc.yaml")["stages"]["ppo"]["deps"]
    listed = [path.replace("${ppo.algorithm}", "ppo-max") for path in deps]
    refuse_unwatched("ppo", settings_of("tiny"), listed)
    with pytest.raises(SettingsError, match=r"ppo runs rlhf/algorithms/apa\.py, rlhf/ppo/apa\.py"):
        refuse_unwatched("ppo", settings_of("tiny", "apa"), listed)


def test_a_link_to_code_that_is_gone_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "engine.gone").symlink_to("../gone.py")
    with pytest.raises(
        SettingsError, match=r"links/engine\.gone: a link to code that is gone; `make"
    ):
        refuse_unwatched("gold", settings_of("tiny"), [str(folder)])
