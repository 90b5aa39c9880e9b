import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_text
from tasks.errors import BusyError
from tasks.repro import ReproFailed, main, override, repro
from tests.project_copy import Project
from tests.source_tree import ROOT


def wait_for(path: Path, text: str, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < end, f"{path} never held {text!r}"
        time.sleep(0.05)


def test_targets_and_what_dvc_says(repository: Project) -> None:
    said: list[str] = []
    repro(repository.root, ["one"], {}, said.append)
    assert (repository.root / "one.txt").exists()
    assert not (repository.root / "two.txt").exists()
    assert "Running stage 'one':" in said


def test_a_stage_that_fails_is_told(repository: Project) -> None:
    (repository.root / "data" / "in").unlink()
    with pytest.raises(ReproFailed, match="exit code"):
        repro(repository.root, [], {}, print)


def test_a_run_waits_for_a_dvc_repro_by_hand(repository: Project) -> None:
    (repository.root / "params.yaml").write_text("seconds: 5\nsection: {key: 1}\n")
    by_hand = repository.start("dvc", "repro")
    wait_for(repository.root / ".dvc" / "tmp" / "rwlock", "one.txt")
    with pytest.raises(BusyError, match="another DVC command"):
        repro(repository.root, [], {}, print, wait=False)
    said: list[str] = []
    repro(repository.root, [], {}, said.append)
    by_hand.communicate()
    assert by_hand.returncode == 0
    assert any("waiting for it to end" in line for line in said)
    assert (repository.root / "two.txt").read_text() == "in\n"


def test_two_runs_queue(repository: Project) -> None:
    (repository.root / "params.yaml").write_text("seconds: 3\nsection: {key: 1}\n")
    said: list[str] = []
    first = threading.Thread(target=repro, args=(repository.root, [], {}, said.append))
    first.start()
    wait_for(repository.root / ".dvc" / "tmp" / "rwlock", "one.txt")
    with pytest.raises(BusyError, match=f"process {os.getpid()}"):
        repro(
            repository.root,
            [],
            {},
            print,
            wait=False,
            prepare=lambda: pytest.fail("written under the first run"),
        )
    second: list[str] = []
    found: list[bool] = []
    two = repository.root / "two.txt"
    repro(repository.root, [], {}, second.append, prepare=lambda: found.append(two.exists()))
    assert found == [True]  # after the end of the first run
    first.join()
    assert said.count("Running stage 'one':") == 1
    assert not any(line.startswith("Running stage") for line in second)


@pytest.mark.usefixtures("without_nohup")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_an_interrupted_run_leaves_no_process_and_frees_the_workspace(
    repository: Project, signum: signal.Signals, code: int
) -> None:
    (repository.root / "params.yaml").write_text("seconds: 4321\nsection: {key: 1}\n")
    run = repository.start(
        sys.executable, "-c", "from tasks.repro import run; run([])", PYTHONPATH=str(ROOT)
    )
    wait_for(repository.root / ".dvc" / "tmp" / "rwlock", "one.txt")
    time.sleep(0.5)
    run.send_signal(signum)
    run.communicate(timeout=300)
    assert run.returncode == code
    assert (
        "sleep 4321"
        not in subprocess.run(
            ["ps", "-eo", "args"], capture_output=True, text=True, check=True
        ).stdout
    )
    (repository.root / "params.yaml").write_text("seconds: 0\nsection: {key: 1}\n")
    repro(repository.root, [], {}, print, wait=False)


def test_overrides_keep_comments_and_are_checked_first(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("# a remark\n" + preset_text("tiny"))
    override(path, {"ppo.kl.coefficient": 0.25, "experiment": "other"})
    text = path.read_text()
    assert text.startswith("# a remark\n")
    content = parse_yaml(text, "params.yaml")
    assert content["ppo"]["kl"]["coefficient"] == 0.25
    assert content["experiment"] == "other"
    before = preset_text("tiny").splitlines()
    changed = [line for line in text.splitlines()[1:] if line not in before]
    assert len(changed) == 2, "only the lines with new values change"
    for values, problem in (
        ({"ppo.kl.coefficient": -1.0}, r"ppo\.kl\.coefficient"),
        ({"ppo.kll.coefficient": 1.0}, "no section 'kll'"),
        ({"ppo.unknown": 1}, "unknown key"),
    ):
        with pytest.raises(SettingsError, match=problem):
            override(path, values)
    assert path.read_text() == text


def test_make_repro_refuses_settings_before_dvc_and_names_the_report_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tasks.repro.run", ran.append)
    monkeypatch.setattr("sys.argv", ["repro"])
    (tmp_path / "params.yaml").write_text(preset_text("tiny").replace("\nseed: 1", "\nsed: 1"))
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1 and ran == [] and "did you mean seed?" in capsys.readouterr().err
    (tmp_path / "params.yaml").write_text(preset_text("tiny"))
    main()
    assert ran == [[]] and "the report: reports/index.html" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["repro", "sft"])
    main()
    assert ran == [[], ["sft"]] and capsys.readouterr().out == ""
