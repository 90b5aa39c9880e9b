from pathlib import Path

import pytest
from cli_runner import run

from rlhf.common.errors import SettingsError
from rlhf.settings import load_settings, preset_names, preset_text


def test_presets_are_listed_with_what_they_are(tmp_path: Path) -> None:
    code, output = run("preset", root=tmp_path)
    assert code == 0
    assert all(name in output for name in preset_names())
    assert "SmolLM2" in output


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_is_written_and_may_be_replaced_by_another(tmp_path: Path, name: str) -> None:
    for each in ("laptop", name):
        assert run("preset", each, root=tmp_path)[0] == 0
    assert (tmp_path / "params.yaml").read_text(encoding="utf-8") == preset_text(name)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_edited_settings_are_not_overwritten_without_force(tmp_path: Path) -> None:
    run("preset", "laptop", root=tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(
        params.read_text(encoding="utf-8").replace("seed: 1", "seed: 2"), encoding="utf-8"
    )
    code, message = run("preset", "laptop", root=tmp_path)
    assert code == 1 and "--force" in message and message.startswith(SettingsError.__name__)
    assert "seed: 2" in params.read_text(encoding="utf-8")
    assert run("preset", "laptop", "--force", root=tmp_path)[0] == 0
    assert params.read_text(encoding="utf-8") == preset_text("laptop")


def test_a_variant_is_a_preset_with_other_details(tmp_path: Path) -> None:
    assert run("preset", "laptop", "--variant", "vanilla", root=tmp_path)[0] == 0
    ppo = load_settings(tmp_path / "params.yaml").ppo
    assert (ppo.kl, ppo.ptx, ppo.value_clip, ppo.reward.normalise, ppo.reward.clip) == (None,) * 5
    # PPO itself
    assert (ppo.surrogate_clip, ppo.optimizer.max_gradient_norm) == (0.2, 1.0)
    listed = run("preset", root=tmp_path)[1]
    assert "laptop *" in listed and "laptop, vanilla" in listed
    # nothing of one's own is lost
    assert run("preset", "tiny", root=tmp_path)[0] == 0
    code, message = run("preset", "tiny", "--variant", "reinforce", root=tmp_path)
    known = (
        "no variant 'reinforce'; there are: ppo-ptx, ppo-max, ppo-penalty, lora, lora-all, vanilla"
    )
    assert code == 1 and known in message


def test_an_unknown_preset_names_the_known_ones(tmp_path: Path) -> None:
    code, message = run("preset", "huge", root=tmp_path)
    assert code == 1 and "laptop" in message
