import pytest

from flows import ui


@pytest.fixture
def without_servers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The interfaces' own logic: which servers it starts, and that it stops on Ctrl-C."""
    started: list[str] = []
    monkeypatch.setattr(ui, "shared_server", lambda *_: "http://127.0.0.1:1/api")
    monkeypatch.setattr(ui, "release", lambda *_: True)
    monkeypatch.setattr(ui, "stop", lambda _: None)

    class Server:
        def poll(self) -> None:
            raise KeyboardInterrupt

    def start(_root: object) -> Server:
        started.append("mlflow")
        return Server()

    def pause(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ui, "start_mlflow", start)
    monkeypatch.setattr(ui.time, "sleep", pause)
    return started


def test_a_server_of_ones_own_is_named_without_its_password_and_none_is_started(
    without_servers: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://ann:s3cret@tracking.example")
    ui.main()
    told = capsys.readouterr().out
    assert "https://tracking.example" in told and "s3cret" not in told
    assert without_servers == []


def test_an_empty_address_is_none(
    without_servers: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    ui.main()
    assert without_servers == ["mlflow"]
    assert f"MLflow   http://127.0.0.1:{ui.MLFLOW_PORT}" in capsys.readouterr().out
