import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny import tiny_settings, write_settings

from rlhf.commands.worker import main
from rlhf.settings import preset_text
from rlhf.stages import STAGES
from rlhf.workspace import Workspace


@pytest.fixture(autouse=True)
def signals_stay_ours() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def there(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """The working directory."""
    monkeypatch.chdir(workspace.root)
    write_settings(workspace, tiny_settings())
    return Workspace()


def test_bad_settings_are_told_by_key_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        preset_text("tiny").replace("iterations: 4", "iterationz: 4")
    )
    run = subprocess.run(
        [sys.executable, "-m", "rlhf.commands.worker", "ppo"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: params.yaml: ppo.iterations: missing")
    assert (
        "ppo.iterationz: unknown key; did you mean iterations? known here: advantage, aihf, "
        in run.stderr
    )
    assert "Traceback" not in run.stderr and run.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


@pytest.mark.parametrize(
    ("stage", "model"), [("sft", "base"), ("reward", "sft"), ("ppo", "reward"), ("ppo", "sft")]
)
def test_a_missing_model_is_named(
    there: Workspace, capsys: pytest.CaptureFixture[str], stage: str, model: str
) -> None:
    shutil.rmtree(there.model(model))
    assert main([stage]) == 1
    assert f"error: models/{model}: no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "table"),
    [
        ("sft", "sft"),
        ("reward", "preferences"),
        ("gold", "preferences"),
        ("ppo", "prompts"),
        ("ppo", "pretrain"),
    ],
)
def test_a_missing_or_broken_table_is_named(
    there: Workspace, capsys: pytest.CaptureFixture[str], stage: str, table: str
) -> None:
    path = there.prepared / f"{table}.parquet"
    path.write_bytes(path.read_bytes()[:200])
    assert main([stage]) == 1
    assert f"error: data/prepared/{table}.parquet: not readable" in capsys.readouterr().err
    path.unlink()
    assert main([stage]) == 1
    assert f"error: data/prepared/{table}.parquet: no such table" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["tidy"], "no stage 'tidy'; the stages are: fetch, prepare"), ([], "usage: ")],
)
def test_an_unknown_stage_is_told(
    there: Workspace, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert main(arguments) == 1
    assert told in capsys.readouterr().err


def test_no_settings_no_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sft"]) == 1
    assert (
        "error: params.yaml: no such file; `rlhf preset laptop` writes one"
        in capsys.readouterr().err
    )


def test_every_stage_has_its_function(there: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    assert all(callable(stage.load()) for stage in STAGES.values())
    assert main(["gold"]) == 0
    assert there.model("gold").is_dir() and there.metrics("gold").is_file()
