import json
from pathlib import Path

from cli_runner import run


def test_show_has_key_metrics_and_says_what_is_missing(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    values = {"accuracy": 0.65432, "margin_mean": 0.1, "seconds": 12.0}
    (metrics / "reward.json").write_text(json.dumps(values), encoding="utf-8")
    (metrics / "ppo.json").write_text('{"collapsed": false}', encoding="utf-8")
    code, output = run("show", root=tmp_path)
    assert code == 0
    assert "0.6543" in output and "margin_mean" not in output
    assert "collapsed" in output and "no" in output
    assert "not run yet" in output
    assert "margin_mean" in run("show", "--all", root=tmp_path)[1]


def test_show_names_a_broken_file(tmp_path: Path) -> None:
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "sft.json").write_text("{", encoding="utf-8")
    code, message = run("show", root=tmp_path)
    assert code == 1 and "sft.json" in message


def test_doctor_needs_valid_settings(tmp_path: Path) -> None:
    code, output = run("doctor", "--quick", "--json", root=tmp_path)
    found = json.loads(output[output.index("{") :])
    faults = [check["name"] for check in found["checks"] if check["state"] == "fault"]
    assert code == 1 and "settings" in faults and not found["healthy"]
    run("preset", "laptop", root=tmp_path)
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "fetch.json").write_text("{}", encoding="utf-8")
    code, output = run("doctor", "--quick", "--json", root=tmp_path)
    found = json.loads(output[output.index("{") :])
    assert {check["name"]: check["state"] for check in found["checks"]}["settings"] == "ok"
    assert found["stages"]["fetch"] and not found["stages"]["sft"]
    code, output = run("doctor", "--quick", root=tmp_path)
    assert "stages done: fetch" in output
    assert code == (0 if found["healthy"] else 1)


def test_a_stage_that_is_off_is_said_to_be(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    (metrics / "dpo.json").write_text("{}", encoding="utf-8")
    (metrics / "fetch.json").write_text("{}", encoding="utf-8")
    _, output = run("show", root=tmp_path)
    found = {line.split()[0]: line.split()[1:] for line in output.splitlines() if line.split()}
    assert found["dpo"] == ["off"] and found["fetch"] == ["done"]
    run("preset", "laptop", root=tmp_path)
    _, output = run("doctor", "--quick", root=tmp_path)
    assert "stages done: fetch, dpo (off);" in output
    _, output = run("doctor", "--quick", "--json", root=tmp_path)
    assert json.loads(output[output.index("{") :])["off"] == ["dpo"]
