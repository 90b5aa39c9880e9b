from collections.abc import Callable

import pytest

from flows import deployments, pipeline, pool_worker, report, stage
from flows.arguments import assignment


def test_a_worker_needs_to_know_its_server(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        pool_worker.main(["gpu"])
    assert ended.value.code == 1
    assert "set PREFECT_API_URL" in capsys.readouterr().err


def test_settings_are_read_as_yaml_reads_them() -> None:
    assert assignment("ppo.kl.coefficient=0.1") == ("ppo.kl.coefficient", 0.1)
    assert assignment("ppo.kl=null") == ("ppo.kl", None)


@pytest.mark.parametrize(
    ("main", "words", "told"),
    [
        (deployments.main, ["sftt"], "no stage 'sftt'; there are: fetch, prepare"),
        (deployments.main, ["--cron", "nonsense"], "'nonsense': five fields"),
        (deployments.main, ["--set", "ppo.kl"], "'ppo.kl': expected KEY=VALUE"),
        (pipeline.main, ["sftt"], "no stage 'sftt'; there are: fetch, prepare"),
        (pipeline.main, ["--set", "data.sft=[starter"], "--set data.sft:2:1: not readable as YAML"),
        (pipeline.main, ["--pool", "ppo"], "'ppo': expected STAGE=POOL"),
        (pipeline.main, ["--pool", "pp=gpu"], "no stage 'pp'"),
        (pipeline.main, ["--nonsense"], "unrecognized arguments"),
    ],
)
def test_what_no_flow_understands_is_refused_before_anything_runs(
    main: Callable[[list[str]], None],
    words: list[str],
    told: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2 and told in capsys.readouterr().err


def test_a_stage_has_help_and_no_arguments(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, code in ((["--help"], 0), (["now"], 2)):
        monkeypatch.setattr("sys.argv", ["report.py", *words])
        with pytest.raises(SystemExit) as ended:
            stage.main(report.report)
        assert ended.value.code == code
    told = capsys.readouterr()
    assert "usage: python -m flows.report" in told.out and "reports/index.html" in told.out
    assert "unrecognized arguments: now" in told.err
