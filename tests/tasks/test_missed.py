import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.workspace import Workspace
from tasks import missed, recording
from tasks.lineage import Lineage
from tasks.missed import attempt, deliver, pending
from tasks.recording import log_results, log_steps
from tasks.tracking import TrackedRun, client_of, close_run, open_run, tag_run

LINEAGE = Lineage("c0ffee", False, "5e77", {"models/base": "ba5e.dir"}, {"sft.epochs": 1.0})
ROWS = [{"step": step, "train_loss": 1.0 / (step + 1)} for step in range(5)]


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace of its own database; making one costs seconds."""
    root = tmp_path_factory.mktemp("workspace")
    (root / "params.yaml").write_text("seed: 1\n")
    return root


@pytest.fixture
def run(records: Path, request: pytest.FixtureRequest) -> TrackedRun:
    """A run of sft that has written its files."""
    workspace = Workspace(records)
    workspace.metrics("sft").parent.mkdir(exist_ok=True)
    workspace.metrics("sft").write_text(json.dumps({"loss_last": 0.2, "perplexity": 3.0}))
    workspace.steps("sft").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    workspace.samples("ppo").write_text('{"step": 0, "response": "a"}\n')
    return open_run(records, "sft", "experiment", request.node.name, LINEAGE, {})


@pytest.fixture
def back(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """MLflow cannot be reached until this is called."""
    # what a server that went away does to every call
    monkeypatch.setattr(recording, "client_of", _gone)
    return lambda: monkeypatch.setattr(recording, "client_of", client_of)


def _gone(_root: Path) -> None:
    raise ConnectionError("https://ann:s3cret@mlflow.example: refused")


def everything(run: TrackedRun, warn: Callable[[str], None]) -> None:
    workspace = Workspace(run.root)
    steps = workspace.steps("sft")
    attempt(run, "the last steps", warn, log_steps, [steps])
    files = [workspace.metrics("sft"), steps, workspace.samples("ppo")]
    extra = ["metrics/ppo_samples.jsonl"]
    attempt(run, "metrics of sft", warn, log_results, files, extra=extra)


def held(run: TrackedRun) -> dict[str, list[tuple[int, float]]]:
    client = client_of(run.root)
    keys = client.get_run(run.run_id).data.metrics
    history = {key: client.get_metric_history(run.run_id, key) for key in keys}
    return {key: [(one.step, one.value) for one in found] for key, found in history.items()}


def test_what_was_missed_is_told_later_as_it_was_and_once(
    run: TrackedRun, back: Callable[[], None]
) -> None:
    warnings: list[str] = []
    everything(run, warnings.append)
    assert warnings[0] == (
        "MLflow: the last steps not recorded: https://mlflow.example: refused; "
        "the next stage does it, or `rlhf record`"
    )
    # a later run writes its own
    Workspace(run.root).steps("sft").write_text('{"step": 0, "train_loss": 77.0}\n')
    Workspace(run.root).metrics("sft").write_text("{}")
    still = deliver(run.root, warnings.append)
    assert len(still) == 2 and "refused" in still[0] and "s3cret" not in "".join(still)
    back()
    told: list[str] = []
    kept = {path: path.read_text() for path in pending(run.root)}
    assert deliver(run.root, told.append) == []
    name = f"MLflow: sft, run {run.run_id}"
    assert told == [
        f"{name}: the last steps: recorded now",
        f"{name}: metrics of sft: recorded now",
    ]
    first = held(run)
    assert first["sft/train_loss"] == [(row["step"], row["train_loss"]) for row in ROWS]
    assert pending(run.root) == [] and all("s3cret" not in text for text in kept.values())
    client = client_of(run.root)
    table = Path(client.download_artifacts(run.run_id, "tables/ppo_samples.json"))
    assert len(json.loads(table.read_text())["data"]) == 1
    # a process that was killed before it could forget what it had told
    Workspace(run.root).steps("sft").write_text("".join(f"{json.dumps(row)}\n" for row in ROWS))
    everything(run, warnings.append)
    assert held(run) == first
    table = Path(client.download_artifacts(run.run_id, "tables/ppo_samples.json"))
    assert len(json.loads(table.read_text())["data"]) == 1


def test_one_thing_that_cannot_be_told_leaves_the_others(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # MLflow refuses such a key, now and later
    attempt(run, "the hashes", print, tag_run, tags={"": "value"})
    missed._keep(run, "the end", close_run, [], {"status": "FINISHED", "ended": 1_700_000_000_000})
    monkeypatch.chdir(run.root)
    with pytest.raises(SystemExit) as end:
        missed.main([])
    assert end.value.code == 1
    assert f"sft, run {run.run_id}: the hashes: " in capsys.readouterr().err
    info = client_of(run.root).get_run(run.run_id).info
    assert (info.status, info.end_time) == ("FINISHED", 1_700_000_000_000)
    (path,) = pending(run.root)
    assert json.loads(path.read_text())["what"] == "the hashes"
    path.unlink()


def test_what_is_kept_for_another_server_stays(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch, unanswered: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://ann:s3cret@{unanswered}")
        attempt(run, "a tag", print, tag_run, tags={"key": "value"})
    left = deliver(run.root, print)
    assert left == [f"sft, run {run.run_id}: a tag: kept for MLflow at http://{unanswered}"]
    (path,) = pending(run.root)
    path.unlink()


def test_a_record_that_is_damaged_or_of_another_release_costs_no_stage(records: Path) -> None:
    for name, text in (("damaged", "{"), ("other", '{"address": "x", "runs": []}')):
        path = records / ".pending" / name / "record.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    left = deliver(records, print)
    assert len(left) == 2 and all("not readable" in line for line in left)
    for path in pending(records):
        path.unlink()


def test_only_functions_of_tasks_are_called(run: TrackedRun) -> None:
    attempt(run, "a tag", print, tag_run, tags={"": "value"})
    (path,) = pending(run.root)
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"log": "pathlib:Path.touch"}))
    (problem,) = deliver(run.root, print)
    path.unlink()
    assert problem.endswith("not readable: pathlib:Path.touch: not a function of tasks")


def test_what_is_kept_during_a_delivery_is_told_by_the_next(run: TrackedRun) -> None:
    attempt(run, "a tag", print, tag_run, tags={"": "value"})
    (first,) = pending(run.root)
    record = json.loads(first.read_text()) | {"arguments": {"tags": {"first": "1"}}}
    first.write_text(json.dumps(record))

    def meanwhile(_line: str) -> None:
        missed._keep(run, "another tag", tag_run, [], {"tags": {"second": "2"}})

    assert deliver(run.root, meanwhile) == []
    (second,) = pending(run.root)
    assert json.loads(second.read_text())["what"] == "another tag"
    assert deliver(run.root, print) == []
    tags = client_of(run.root).get_run(run.run_id).data.tags
    assert (tags["first"], tags["second"]) == ("1", "2")


def test_what_cannot_be_kept_costs_no_stage(run: TrackedRun) -> None:
    warnings: list[str] = []
    # no JSON has such a number
    attempt(run, "a tag", warnings.append, tag_run, tags={"": float("nan")})
    (warning,) = warnings
    assert "it could not be kept for later either" in warning
    assert pending(run.root) == []
