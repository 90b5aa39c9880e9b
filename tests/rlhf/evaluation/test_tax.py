import math
from pathlib import Path

import pandas as pd
import pytest

from rlhf.common.errors import SettingsError
from rlhf.engine.single import TorchEngine
from rlhf.evaluation.tax import TaxSummary, alignment_tax
from rlhf.settings import settings_from
from rlhf.settings.schema import Settings
from rlhf.workspace import Workspace


@pytest.fixture(scope="session")
def taxed(settings: Settings) -> Settings:
    content = settings.model_dump(mode="json", by_alias=True)
    content["evaluate"]["tax"] = {
        "models": ["sft", "policy", "other"],
        "tasks": ["starter"],
        "limit": 20,
    }
    content["evaluate"]["opponents"] = {"other": "path:$OTHER_MODEL"}
    return settings_from(content)


def test_the_tax_of_each_model(
    trained: Path,
    taxed: Settings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    workspace = Workspace(trained)
    monkeypatch.setenv("OTHER_MODEL", str(workspace.model("sft")))
    rows = [{"id": str(n), "split": "validation", "input_ids": [5, 6, 7 + n]} for n in range(3)]
    pd.DataFrame(rows).assign(kind="plain", source="made", opening="", text="").to_parquet(
        workspace.prepared / "pretrain.parquet"
    )
    monkeypatch.setattr("rlhf.evaluation.knowledge.count_cut", lambda samples, model: 3)
    found = alignment_tax(taxed, workspace, TorchEngine(taxed.engine))
    warning = (
        "evaluate: starter: 3 questions are longer than the window of sft and lost their start"
    )
    assert caplog.messages[0] == warning
    assert [row.cut for row in found.tax] == [3, 3, 3]
    assert [(row.model, row.task) for row in found.tax] == [
        ("sft", "starter"),
        ("policy", "starter"),
        ("other", "starter"),
    ]
    sft, policy, other = found.plain_text
    assert [sft.model, policy.model, other.model] == ["sft", "policy", "other"]
    assert sft.perplexity == pytest.approx(math.exp(sft.loss))
    assert sft.loss != policy.loss and other.loss == sft.loss
    assert found.tax[2].accuracy == found.tax[0].accuracy


def test_without_the_section_nothing_is_measured(trained: Path, settings: Settings) -> None:
    assert settings.evaluate.tax is None
    engine = TorchEngine(settings.engine)
    assert alignment_tax(settings, Workspace(trained), engine) == TaxSummary([], [])


def test_a_model_that_is_not_at_hand_has_no_likelihoods(settings: Settings) -> None:
    content = settings.model_dump(mode="json", by_alias=True)
    content["evaluate"]["tax"] = {"models": ["sft", "theirs"], "tasks": ["starter"], "limit": 20}
    content["evaluate"]["opponents"] = {"theirs": "file:answers.jsonl"}
    with pytest.raises(SettingsError, match=r"tax\.models: \['theirs'\]"):
        settings_from(content)
