import pytest

from flows import deployments


def test_a_work_pool_needs_a_server_that_stays(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with pytest.raises(SystemExit) as ended:
        deployments.main(["--work-pool", "gpu"])
    assert ended.value.code == 1
    assert "set PREFECT_API_URL" in capsys.readouterr().err


def test_settings_are_read_as_yaml_reads_them() -> None:
    assert deployments._pair("ppo.kl.coefficient=0.1") == ("ppo.kl.coefficient", 0.1)
    assert deployments._pair("ppo.kl=null") == ("ppo.kl", None)
    with pytest.raises(SystemExit, match="expected KEY=VALUE"):
        deployments._pair("ppo.kl")
