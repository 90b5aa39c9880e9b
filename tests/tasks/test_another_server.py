"""After `evaluate`: models that were registered with another MLflow server than the present one."""

import logging
from pathlib import Path

import pytest

from rlhf.common.files import write_json
from rlhf.common.yaml import parse_yaml
from rlhf.settings import preset_text, settings_from
from rlhf.workspace import Workspace
from tasks import matches, steps
from tasks.lineage import CachedOutput, Lineage
from tasks.registry import register_model
from tasks.tracking import TrackedRun, open_run

DETAILS = {
    "models": [
        {"model": model, "gold_score": 0.5, "response_length": 9.0, "finished": 1.0}
        for model in ("sft", "policy")
    ],
    "tax": [],
    "comparisons": [],
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrackedRun:
    """A run of `evaluate` on a server that has the SFT model; another one has the policy."""
    write_json(Workspace(tmp_path).details("evaluate"), DETAILS)
    (tmp_path / "params.yaml").write_text("seed: 1\n")
    lineage = Lineage("c0ffee", False, "5e77")
    settings = settings_from(parse_yaml(preset_text("tiny"), "tiny"))
    for model in ("sft", "policy"):
        directory = Workspace(tmp_path).model(model)
        directory.mkdir(parents=True)
        write_json(directory / "config.json", {"architectures": ["LlamaForCausalLM"]})
        write_json(directory / "tokenizer_config.json", {"tokenizer_class": "TokenizersBackend"})
        (directory / "tokenizer.json").write_text("{}")
        (directory / "model.safetensors").write_text(model)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/present.db")
    opened = open_run(tmp_path, "evaluate", "exp", "an execution", lineage, {})
    register_model(opened, "sft", CachedOutput("hash.dir"), None, settings)
    return opened


def test_the_warnings_name_server_and_model_and_what_to_do(
    run: TrackedRun, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for module in (steps, matches):
        monkeypatch.setattr(module, "get_run_logger", lambda: logging.getLogger("test"))
    steps.record_judged_models.fn(run)
    matches.promote_policy.fn(run)
    figures, promotion = [record.getMessage() for record in caplog.records if record.name == "test"]
    for warning in (figures, promotion):
        assert f"exp-policy: MLflow at sqlite:///{run.root}/present.db has no version" in warning
        assert "exp-sft" not in warning
        assert "Set MLFLOW_TRACKING_URI to the one that has them" in warning
        # the way out comes at the end, and is not cut off
        assert warning.endswith("`dvc repro --force --single-item ppo evaluate`")
    assert figures.startswith("MLflow: the figures of the models not recorded: ")
    assert promotion.startswith("nothing is promoted. ")
