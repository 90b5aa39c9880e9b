import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.common.errors import SettingsError
from rlhf.common.yaml import parse_yaml, read_yaml, write_yaml
from rlhf.settings import preset_text
from tasks.errors import BusyError
from tasks.repro import ReproFailed, main, override, repro, run
from tests.project_copy import Project, forget_link
from tests.source_tree import ROOT
from tests.waiting import SECONDS, processes_below, wait_for_text, wait_until

WAITING = "waiting for it to end"


def first_stage_runs(project: Project) -> None:
    """Wait until DVC holds the first stage's output and the stage has begun."""
    wait_for_text(project.root / ".dvc" / "tmp" / "rwlock", "one.txt")
    wait_until((project.root / "begun").exists, "the stage did not begin")


def letting_go(hold: Path, lines: list[str]) -> Callable[[str], None]:
    """Collect lines; the first run goes on once the second says that it waits for it."""

    def on_line(line: str) -> None:
        lines.append(line)
        if WAITING in line:
            hold.unlink()

    return on_line


def test_targets_and_the_output_of_dvc(repository: Project) -> None:
    lines: list[str] = []
    repro(repository.root, ["one"], {}, lines.append)
    assert (repository.root / "one.txt").exists()
    assert not (repository.root / "two.txt").exists()
    assert "Running stage 'one':" in lines


def test_a_stage_that_fails_is_reported(repository: Project) -> None:
    (repository.root / "data" / "in").unlink()
    with pytest.raises(ReproFailed, match="exit code"):
        repro(repository.root, [], {}, print)


def test_a_run_waits_for_a_dvc_repro_by_hand(repository: Project) -> None:
    hold = repository.hold()
    by_hand = repository.start("dvc", "repro")
    first_stage_runs(repository)
    with pytest.raises(BusyError, match="another DVC command"):
        repro(repository.root, [], {}, print, wait=False)
    lines: list[str] = []
    repro(repository.root, [], {}, letting_go(hold, lines))
    by_hand.communicate(timeout=SECONDS)
    assert by_hand.returncode == 0
    assert any(WAITING in line for line in lines)
    assert (repository.root / "two.txt").read_text() == "in\n"


def test_two_runs_queue(repository: Project) -> None:
    hold = repository.hold()
    first: list[str] = []
    thread = threading.Thread(target=repro, args=(repository.root, [], {}, first.append))
    thread.start()
    first_stage_runs(repository)
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
    after_the_first: list[bool] = []
    two = repository.root / "two.txt"
    repro(
        repository.root,
        [],
        {},
        letting_go(hold, second),
        prepare=lambda: after_the_first.append(two.exists()),
    )
    assert after_the_first == [True]
    thread.join(SECONDS)
    assert first.count("Running stage 'one':") == 1
    assert not any(line.startswith("Running stage") for line in second)


@pytest.mark.usefixtures("without_nohup")
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 143)])
def test_an_interrupted_run_leaves_no_process_and_frees_the_workspace(
    repository: Project, signum: signal.Signals, code: int
) -> None:
    hold = repository.hold()
    run = repository.start(
        sys.executable, "-c", "from tasks.repro import run; run([])", PYTHONPATH=str(ROOT)
    )
    first_stage_runs(repository)
    run.send_signal(signum)
    run.communicate(timeout=SECONDS)
    assert run.returncode == code
    assert processes_below(repository.root) == []
    hold.unlink()
    repro(repository.root, [], {}, print, wait=False)


def test_settings_and_code_that_is_not_listed_are_refused_before_dvc(repository: Project) -> None:
    params, chain = repository.root / "params.yaml", repository.root / "dvc.yaml"
    with pytest.raises(SettingsError, match=r"did you mean seed\?"):
        params.write_text(preset_text("tiny").replace("\nseed: 1", "\nsed: 1"))
        repro(repository.root, [], {}, print)
    params.write_text(preset_text("tiny"))

    content = read_yaml(chain)
    content["stages"]["gold"] = read_yaml(ROOT / "dvc.yaml")["stages"]["gold"]
    forget_link(content["stages"], "gold", "engine.single", repository.root / "links")
    chain.write_text(write_yaml(content))
    with pytest.raises(SettingsError, match=r"gold runs rlhf/engine/single\.py"):
        repro(repository.root, ["one"], {}, print)
    assert not (repository.root / "begun").exists()


def test_an_override_that_chooses_what_is_not_listed_is_refused_and_not_written(
    tmp_path: Path,
) -> None:
    stages = read_yaml(ROOT / "dvc.yaml")["stages"]
    forget_link(stages, "ppo", "engine.zero", tmp_path / "links")
    (tmp_path / "dvc.yaml").write_text(write_yaml({"stages": stages}))
    (tmp_path / "params.yaml").write_text(preset_text("tiny"))
    override(tmp_path, {})
    with pytest.raises(SettingsError, match=r"ppo runs rlhf/engine/zero\.py"):
        override(tmp_path, {"engine.kind": "deepspeed"})
    assert (tmp_path / "params.yaml").read_text() == preset_text("tiny")


def test_overrides_keep_comments_and_are_checked_first(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("# a remark\n" + preset_text("tiny"))
    override(tmp_path, {"ppo.kl.coefficient": 0.25, "experiment": "other"})
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
            override(tmp_path, values)
    assert path.read_text() == text


def test_make_repro_names_the_report_at_the_end_of_a_whole_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr("tasks.repro.run", ran.append)
    monkeypatch.setattr("sys.argv", ["repro"])
    main()
    assert ran == [[]] and "the report: reports/index.html" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["repro", "sft"])
    main()
    assert ran == [[], ["sft"]] and capsys.readouterr().out == ""


def test_refused_settings_end_make_repro_with_a_message(
    repository: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (repository.root / "params.yaml").write_text("sed: 1\n")
    monkeypatch.chdir(repository.root)
    monkeypatch.setattr("tasks.repro.signal.signal", lambda *_: None)
    monkeypatch.setattr("tasks.repro.hangup_as_sigterm", lambda: None)
    with pytest.raises(SystemExit) as end:
        run([])
    assert end.value.code == 1 and "error: params.yaml" in capsys.readouterr().err
